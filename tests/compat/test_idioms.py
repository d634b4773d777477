"""Ways in which vLLM's own code does things that the plugin counts on, beyond names and signatures."""

import ast


def _tree(release, module: str) -> ast.Module:
    return ast.parse(release.source(module))


def _functions(tree: ast.Module):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_custom_class_is_a_speculative_method(release):
    texts = {node.value for node in ast.walk(_tree(release, "vllm.config.speculative")) if isinstance(node, ast.Constant)}
    assert "custom_class" in texts


def test_v2_refuses_custom_classes_by_a_feature_that_names_them(release):
    """plugin.py takes that feature out for our own."""
    functions = _functions(_tree(release, "vllm.config.vllm"))
    (unsupported,) = [node for node in functions if node.name == "_get_v2_model_runner_unsupported_features"]
    text = ast.unparse(unsupported)
    # 0.26 lists instead what the V2 runner can do.
    refused = "'custom_class'" in text or "speculative_config.method not in ('eagle'" in text
    assert refused and "unsupported.append(f\"speculative method '{speculative_config.method}'\")" in text


def test_workers_import_the_runner_class_when_they_build_it(release):
    for worker, runner, modules in (
        ("gpu_worker", "GPUModelRunner", ("gpu_model_runner", "gpu.model_runner")),
        ("cpu_worker", "CPUModelRunner", ("cpu.model_runner",)),
    ):
        imported = {
            (node.module, alias.name)
            for function in _functions(_tree(release, f"vllm.v1.worker.{worker}"))
            for node in ast.walk(function)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert imported >= {(f"vllm.v1.worker.{module}", runner) for module in modules}


def test_v2_passes_its_speculator_what_ours_takes(release):
    """By position up to num_sampled; the runner has made its request states when ours gets its own."""
    runner = _tree(release, "vllm.v1.worker.gpu.model_runner")
    (real, dummy) = sorted(
        (node for node in ast.walk(runner) if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.speculator.propose"),
        key=lambda call: -len(call.args),
    )
    assert [ast.unparse(argument) for argument in real.args[:3]] == ["input_batch", "attn_metadata", "slot_mappings_by_layer"]
    assert ast.unparse(real.args[5]) == "num_sampled"
    assert {"dummy_run", "is_profile"} <= {keyword.arg for keyword in dummy.keywords}


def test_v2_batches_are_led_by_requests_with_few_rows(release):
    """Those that have as many rows as a decode, then the others by their number: what engine/v2/backend.py counts on."""
    (order,) = [n for n in _functions(_tree(release, "vllm.v1.worker.gpu.model_runner")) if n.name == "sort_batch_req_ids"]
    key = next(ast.unparse(node.value.body) for node in ast.walk(order) if isinstance(node, ast.Assign))
    by_rows = "(num := num_tokens_per_req[r]) != decode_query_len, num)"
    assert key in ("(" + by_rows, "(not draft_tokens.get(r), " + by_rows)


def test_cpu_worker_builds_the_runner_class_by_its_module_level_name(release):
    (init_device,) = [n for n in _functions(_tree(release, "vllm.v1.worker.cpu_worker")) if n.name == "init_device"]
    assert "self.model_runner = CPUModelRunner(" in ast.unparse(init_device)


def test_triton_attention_keeps_keys_before_values_in_its_last_dimension(release):
    text = release.source("vllm.v1.attention.backends.triton_attn")
    assert "key_cache, value_cache = kv_cache.transpose(1, 2).split(self.head_size, dim=-1)" in text
    assert "forward_includes_kv_cache_update: bool = False" in text


def test_layers_call_attention_with_the_arguments_that_ours_passes_on(release):
    (call,) = [
        node
        for node in ast.walk(_tree(release, "vllm.model_executor.layers.attention.attention"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.impl.forward" and len(node.args) == 6
    ]
    assert [ast.unparse(argument) for argument in call.args] == ["self", "query", "key", "value", "kv_cache", "attn_metadata"]
    assert "output" in [keyword.arg for keyword in call.keywords]


def test_metrics_are_read_from_where_ours_are_left(release):
    """With several API servers from the files in a folder that the environment names, otherwise from the registry."""
    functions = _functions(_tree(release, "vllm.v1.metrics.prometheus"))
    (choose,) = [node for node in functions if node.name == "get_prometheus_registry"]
    with_folder, otherwise = choose.body[-2:]
    assert isinstance(with_folder, ast.If) and "'PROMETHEUS_MULTIPROC_DIR'" in ast.unparse(with_folder.test)
    assert "MultiProcessCollector(registry)" in ast.unparse(with_folder)
    assert ast.unparse(otherwise) == "return REGISTRY"


def test_vllms_clean_up_leaves_our_metrics_registered(release):
    """It unregisters collectors by a name that ours do not have."""
    functions = _functions(_tree(release, "vllm.v1.metrics.prometheus"))
    (clean,) = [node for node in functions if node.name == "unregister_vllm_metrics"]
    assert "hasattr(collector, '_name') and collector._name.startswith('vllm:')" in ast.unparse(clean)
