/** Prompts to begin with: the bundled model writes Python. */

const USUAL = { max_tokens: 48, temperature: 0.8, top_p: 0.95 };

export const EXAMPLES = [
  { title: "Function", prompt: "def read_lines(path):\n    with open(path", parameters: USUAL },
  { title: "Class", prompt: "class Stack:\n    def __init__(self):\n", parameters: { ...USUAL, max_tokens: 64 } },
  { title: "Three choices", prompt: "def is_prime(n):\n", parameters: { ...USUAL, n: 3, max_tokens: 40 } },
  {
    title: "Structured",
    prompt: "# The answer is one word.\nis_even = ",
    parameters: { ...USUAL, structured: { choice: ["True", "False", "None"] } },
  },
  {
    title: "No repetition",
    prompt: "words = ['apple', 'banana',",
    parameters: { ...USUAL, dry_multiplier: 0.8, min_p: 0.05, top_p: undefined },
  },
  { title: "Mirostat", prompt: "import os\n\n", parameters: { max_tokens: 48, mirostat_tau: 3 } },
];
