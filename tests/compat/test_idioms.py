"""Ways in which vLLM's own code does things that the plugin counts on, beyond names and signatures."""

import ast


def _tree(release, module: str) -> ast.Module:
    return ast.parse(release.source(module))


def _functions(tree: ast.Module):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_custom_class_is_a_speculative_method(release):
    texts = {node.value for node in ast.walk(_tree(release, "vllm.config.speculative")) if isinstance(node, ast.Constant)}
    assert "custom_class" in texts


def test_custom_class_keeps_the_v1_model_runner(release):
    functions = _functions(_tree(release, "vllm.config.vllm"))
    (unsupported,) = [node for node in functions if node.name == "_get_v2_model_runner_unsupported_features"]
    text = ast.unparse(unsupported)
    listed = "'custom_class'" in text
    # 0.26 lists instead what the V2 runner can do.
    assert listed or "speculative_config.method not in ('eagle'" in text


def test_gpu_worker_imports_the_runner_class_when_it_builds_it(release):
    builders = [
        node
        for function in _functions(_tree(release, "vllm.v1.worker.gpu_worker"))
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module == "vllm.v1.worker.gpu_model_runner"
    ]
    assert [alias.name for node in builders for alias in node.names] == ["GPUModelRunner"]


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
