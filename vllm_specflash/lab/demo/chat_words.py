"""The words that the templates of chat_prompts.py are filled with.

Prompts are drawn from these by a seed, so another word or another order makes other prompts, the held-out ones among
them.
"""

SCIENCE = (
    "photosynthesis|gravity|black holes|the water cycle|plate tectonics|vaccines|antibiotics|DNA|evolution|magnetism|"
    "electricity|nuclear fusion|the greenhouse effect|tides|rainbows|lightning|earthquakes|volcanoes|the immune system|"
    "the human heart|sleep|memory|enzymes|atoms|chemical bonds|acids and bases|the periodic table|sound waves|light|"
    "relativity|quantum mechanics|radioactivity|the solar system|comets|the moon's phases|fossils|dinosaurs|coral reefs|"
    "bees|migration of birds|whales|bacteria|viruses|mushrooms|soil|rain forests|deserts|glaciers|ocean currents|"
    "seasons|the atmosphere|stars|galaxies|telescopes|microscopes|genetics|hormones|digestion|the brain|stem cells"
).split("|")
TECHNOLOGY = (
    "the internet|search engines|machine learning|neural networks|databases|encryption|operating systems|compilers|"
    "cloud computing|blockchain|GPS|batteries|solar panels|wind turbines|electric cars|3D printing|robots|drones|"
    "touch screens|Wi-Fi|email|web browsers|programming languages|version control|unit tests|data structures|recursion|"
    "sorting algorithms|hash tables|APIs|open source software|computer viruses|virtual reality|satellites|microchips|"
    "refrigerators|microwave ovens|jet engines|bridges|elevators|bicycles|cameras|printing presses|steam engines"
).split("|")
HISTORY = (
    "the Roman Empire|ancient Egypt|the Silk Road|the Renaissance|the Industrial Revolution|the French Revolution|"
    "the Cold War|the moon landing|the Great Wall of China|the Vikings|the invention of writing|the Black Death|"
    "the Space Race|the printing press|the Olympic Games|the Maya civilization|the Ottoman Empire|World War I|"
    "World War II|the United Nations|the American Civil War|ancient Greece|the age of exploration|women's suffrage|"
    "the abolition of slavery|the fall of the Berlin Wall|Marie Curie|Leonardo da Vinci|Isaac Newton|Ada Lovelace|"
    "Nelson Mandela|Cleopatra|Albert Einstein|Charles Darwin|Mahatma Gandhi|Florence Nightingale|Galileo Galilei"
).split("|")
SOCIETY = (
    "inflation|supply and demand|taxes|democracy|human rights|the stock market|insurance|budgeting|credit scores|"
    "public transport|recycling|remote work|social media|advertising|climate change|renewable energy|urban gardens|"
    "libraries|museums|volunteering|education|online learning|fair trade|tourism|immigration|privacy|free speech|"
    "globalization|unemployment|small businesses|startups|customer service|teamwork|leadership|negotiation|time management"
).split("|")
LIFE = (
    "cooking pasta|baking bread|making coffee|growing tomatoes|keeping a houseplant|training a puppy|adopting a cat|"
    "learning the guitar|learning a language|running a marathon|yoga|meditation|swimming|hiking|camping|cycling|chess|"
    "photography|painting|knitting|writing a diary|reading more|sleeping better|eating healthily|saving money|"
    "moving to a new city|planning a wedding|packing for a trip|cleaning the kitchen|organizing a desk|studying for exams|"
    "making friends|public speaking|job interviews|writing a resume|dealing with stress|fixing a bicycle|"
    "painting a room|hosting a dinner party|planning a birthday party|gardening|birdwatching|playing the piano|dancing"
).split("|")
PLACES = (
    "Paris|Tokyo|New York|Cairo|Rome|London|Rio de Janeiro|Sydney|Istanbul|Cape Town|Mexico City|Beijing|Berlin|"
    "Barcelona|Amsterdam|Venice|Athens|Mumbai|Bangkok|Toronto|Iceland|Norway|Kenya|Peru|New Zealand|Japan|Italy|"
    "Brazil|Canada|Morocco|the Alps|the Amazon|the Sahara|Antarctica|the Grand Canyon|the Great Barrier Reef"
).split("|")
CHARACTERS = (
    "a lonely lighthouse keeper|a brave mouse|a robot who learns to paint|a young wizard|a retired detective|"
    "a dragon who is afraid of fire|two rival bakers|a time-travelling librarian|a girl who talks to birds|"
    "an old sailor|a curious fox|a lost astronaut|a shy musician|a village blacksmith|a talking tree|a clumsy knight|"
    "a boy and his grandfather|a cat who runs a bookshop|a princess who wants to be an engineer|a ghost in a train station|"
    "a gardener with a secret|a penguin in the desert|twin sisters|a clockmaker|a forgotten toy|a singing whale|"
    "a night-shift nurse|a street artist|a small cloud|a stubborn donkey"
).split("|")
SETTINGS = (
    "in a small village by the sea|on a distant planet|in a city of glass|during a long winter|in an enchanted forest|"
    "on a train at night|in an abandoned castle|at the bottom of the ocean|in a busy market|on a mountain top|"
    "in the year 2300|at a school for inventors|on a desert island|in a quiet library|during a thunderstorm|"
    "in a floating city|on a farm in spring|in a museum after dark"
).split("|")
ANIMALS = (
    "dog|cat|elephant|penguin|octopus|eagle|shark|dolphin|tiger|kangaroo|owl|bee|ant|spider|frog|snake|horse|cow|"
    "wolf|bear|giraffe|zebra|camel|monkey|parrot|turtle|butterfly|salmon|crocodile|bat|rabbit|squirrel|goat|sheep"
).split("|")
FOODS = (
    "pancakes|vegetable soup|apple pie|fried rice|tomato salad|chicken curry|lasagna|chocolate chip cookies|omelette|"
    "banana bread|lentil stew|guacamole|pizza|mashed potatoes|fruit salad|pumpkin soup|tacos|spaghetti|hummus|"
    "roasted vegetables|blueberry muffins|mushroom risotto|sushi|pad thai|French toast|potato salad|lemonade"
).split("|")
PEOPLE = (
    "my boss|a friend|my landlord|my teacher|a customer|my neighbor|a hotel|the city council|a colleague|my professor|"
    "an airline|a job applicant|my team|my grandmother|a doctor's office|a local newspaper|a new employee|a pen pal"
).split("|")
REASONS = (
    "asking for a day off|saying thank you for their help|apologizing for being late|inviting them to a party|"
    "complaining about noise|asking for a refund|announcing a new project|asking for advice|congratulating them|"
    "explaining a delay|asking for feedback|cancelling a meeting|introducing myself|saying goodbye|asking for a reference|"
    "reporting a broken heater|confirming a reservation|suggesting an idea"
).split("|")
TONES = "formal|friendly|short|polite|cheerful|serious|warm|persuasive|humorous|professional".split("|")
MOODS = "happy|sad|mysterious|funny|calm|hopeful|exciting|romantic|spooky|heroic".split("|")
NUMBERS = "three|four|five|six|seven|ten".split("|")
CODE = (
    "reverses a string|checks if a number is prime|computes the factorial of a number|finds the largest number in a list|"
    "counts the vowels in a string|sorts a list of numbers|removes duplicates from a list|computes Fibonacci numbers|"
    "checks if a word is a palindrome|reads a file and counts its lines|merges two sorted lists|"
    "converts Celsius to Fahrenheit|finds the greatest common divisor of two numbers|flattens a nested list|"
    "counts the words in a text|computes the average of a list|generates a random password|implements binary search|"
    "implements a stack|implements a queue|computes the sum of the digits of a number|checks if two words are anagrams|"
    "transposes a matrix|finds the second smallest number in a list|prints a multiplication table|validates an email address|"
    "groups words by their first letter|finds the common elements of two lists|parses a date|draws a triangle of stars"
).split("|")
LANGUAGES = "Python|Python|Python|JavaScript|Java|C|C++|Go|Rust".split("|")
PASSAGES = (
    "The meeting was moved to Thursday because the manager had to travel. Everyone was told by email, but two people missed the message and came on Wednesday.",
    "Our town opened a new library last month. It has a large children's section, quiet study rooms and a small cafe, and it stays open until nine in the evening.",
    "The storm knocked down several trees and left parts of the city without power for two days. Volunteers helped clear the roads and brought food to older neighbors.",
    "Maria started her bakery with one oven and a loan from her uncle. Ten years later she has four shops, but she still gets up at three every morning to bake the first loaves.",
    "Many people believe that goldfish only remember things for a few seconds. Experiments show that they can learn to press a lever for food and remember it for months.",
    "The company sold fewer phones this year than last year. However, its profits rose because customers spent more on music, games and cloud storage.",
    "The old bridge was closed after engineers found cracks in two of its pillars. Repairs will take at least six months and drivers must use the northern road.",
    "Honey never really spoils. Its low water content and high acidity keep bacteria from growing, and jars found in ancient tombs were still edible.",
    "The team trained all winter for the championship. They lost the first game badly, changed their strategy, and won the next five in a row.",
    "Electric buses are quieter and cleaner than diesel ones, but they cost more to buy and need charging stations. The city plans to replace half of its fleet by 2030.",
    "Tom forgot his umbrella, missed the bus, and arrived at work soaking wet. His colleagues lent him a dry sweater and made him a cup of tea.",
    "The museum bought a painting that nobody had seen for eighty years. Experts spent months cleaning it and found a second picture hidden underneath.",
    "Bamboo is one of the fastest growing plants in the world. Some kinds grow almost a meter in a single day, and it is used for houses, clothes and food.",
    "The students built a small weather station on the school roof. It measures wind, rain and temperature, and sends the results to a website every hour.",
    "After the harvest, farmers leave part of the fields unplowed so that birds and insects find food in winter. The plan is paid for by a small tax on sugar.",
    "The train from the coast was delayed by snow. Passengers shared blankets and stories, and when they finally arrived some had become good friends.",
)
REWRITES = (
    "Summarize this text in one sentence|Rewrite this text in simpler words|Rewrite this text as a news report|"
    "Turn this text into a list of bullet points|Give this text a title and explain your choice|"
    "Rewrite this text in a more formal style|Continue this text with three more sentences|"
    "What is the main idea of this text?|Write two questions about this text and answer them|"
    "Rewrite this text in the first person|Retell this text as a short fairy tale|Explain this text to a child"
).split("|")
SENTENCES = (
    "He go to school every days.|The cat sat on the mat because it was tired.|I has never seen such beautiful flowers.|"
    "She don't like coffee in the morning.|The movie was so boring that I fell asleep.|We was happy to see them again.|"
    "Their going to the beach tomorrow.|The cake tasted better than I expected.|My brother are taller than me.|"
    "If I was rich, I would travel the world.|The children played in the garden all afternoon.|"
    "It is important to drink enough water.|The weather was nice, so we walked home."
).split("|")
WORDS = (
    "happy|quick|bright|ancient|brave|gentle|enormous|curious|honest|fragile|clever|quiet|generous|stubborn|serene|"
    "ambitious|reliable|vivid|humble|resilient|empathy|nostalgia|freedom|wisdom|courage|patience|justice|irony"
).split("|")
OPINIONS = (
    "Is it better to live in a city or in the countryside?|Should homework be banned?|Are electric cars really greener?|"
    "Is it better to read books or watch films?|Should everyone learn to code?|Is breakfast the most important meal?|"
    "Are zoos good for animals?|Should school uniforms be required?|Is it better to rent or to buy a home?|"
    "Can money buy happiness?|Should we explore Mars?|Is working from home better than working in an office?|"
    "Are video games good for children?|Should public transport be free?|Is it better to travel alone or in a group?"
).split("|")
SYSTEMS = (
    "You are a patient teacher.|You are a helpful assistant that answers briefly.|You are a friendly travel guide.|"
    "You are a careful software engineer.|You are a storyteller for children.|You are a professional editor."
).split("|")
FIRST_TURNS = (
    ("Hello!", "Hello! How can I help you today?"),
    ("Can you help me with something?", "Of course! What would you like help with?"),
    ("I have a question.", "I'm happy to help. What is your question?"),
    ("Hi, who are you?", "I'm SmolLM, an AI assistant. What can I do for you?"),
    ("I am preparing a lesson.", "That sounds great. What is the lesson about, and who is it for?"),
    ("I'm bored.", "I'm sorry to hear that. Would you like a story, a fact or an idea for something to do?"),
)
