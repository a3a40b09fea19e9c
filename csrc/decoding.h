/* decoding.h - from a row of logits to a token: the public interface of the sampling kernel.
 *
 * The library is a guest in your process. It does not allocate, print, abort, read the environment or keep state
 * beyond one pointer (the instruction set in use). Every buffer is yours, inputs are read only, and nothing is
 * retained after a call returns. Rounding and flush-to-zero modes are pinned on entry and restored on exit.
 *
 * Same logits, same parameters, same seed: same token and same log-probability bits, on every instruction set,
 * at every alignment, in every batch. docs/semantics.md says what each word means.
 *
 * Threads: every function may be called from any number of threads at once, as long as no two calls share a
 * workspace or a results array; decoding_force_isa may run beside other calls but decides only later ones.
 *
 * Every struct of a call begins with its own size, which the caller sets to sizeof(struct): it is how versions tell
 * each other apart. Zero the rest before filling it in; then every pointer that is not set means "none".
 */
#ifndef DECODING_H
#define DECODING_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(DECODING_SHARED)
#define DECODING_API __declspec(dllexport)
#elif defined(__GNUC__)
#define DECODING_API __attribute__((visibility("default")))
#else
#define DECODING_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a struct or a signature changes. */
#define DECODING_ABI_VERSION 2
/* Raised when any drawn token, or any bit of a log-probability, changes for any seed. */
#define DECODING_STREAM_VERSION 1

/* Element types of a row of logits. */
#define DECODING_FLOAT32 0
#define DECODING_FLOAT16 1
#define DECODING_BFLOAT16 2

/* Quantised types of weights: blocks as in GGUF files, of 32 weights or (K) of 256. Inputs of such a matrix are
 * quantised as well, to int8 in groups of 32: docs/adr/0011-quantised-arithmetic.md. */
#define DECODING_Q8_0 3
#define DECODING_Q4_0 4
#define DECODING_Q4_1 5
#define DECODING_Q5_0 6
#define DECODING_Q5_1 7
#define DECODING_Q4_K 8
#define DECODING_Q5_K 9
#define DECODING_Q6_K 10

/* Status of a call or of a row. */
#define DECODING_OK 0
#define DECODING_ROW_FAILED 1      /* the call as a whole: at least one row has a status of its own */
#define DECODING_NONFINITE 2       /* the row: NaN or +inf; `stage` and `bad_token_id` say where */
#define DECODING_EMPTY 3           /* the row: no token is left; `stage` says which stage banned the last one */
#define DECODING_BAD_TOKEN_ID 4    /* the row: an id outside 0 .. vocab_size - 1; `bad_token_id` names it */
#define DECODING_BAD_ARGUMENT 5    /* a null pointer, a size or a parameter outside its documented range */
#define DECODING_BAD_SIZE 6        /* a struct's `struct_size` is not that of this version */
#define DECODING_SMALL_WORKSPACE 7 /* the workspace is smaller than decoding_workspace_size() asks for */
#define DECODING_UNKNOWN_ISA 8     /* no such instruction set */
#define DECODING_ABSENT_ISA 9      /* the set is known, and this CPU or this build does not have it */

/* Stages of the pipeline. The order of their numbers is the default order; a tenth of a number is the stage's number in
 * docs/semantics.md. `stage` of a failed row is one of them. Number 60 is the host's own edits. */
#define DECODING_STAGE_FINITE_CHECK 0
#define DECODING_STAGE_RAW_SNAPSHOT 10
#define DECODING_STAGE_REPETITION_PENALTY 20
#define DECODING_STAGE_FREQUENCY_PRESENCE 30
#define DECODING_STAGE_DRY 35
#define DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY 40
#define DECODING_STAGE_LOGIT_BIAS 50
#define DECODING_STAGE_HARD_MASKS 70
#define DECODING_STAGE_TEMPERATURE 80
#define DECODING_STAGE_TOP_K 90
#define DECODING_STAGE_TOP_P 91
#define DECODING_STAGE_MIN_P 92
#define DECODING_STAGE_TYPICAL_P 93
#define DECODING_STAGE_TOP_N_SIGMA 94
#define DECODING_STAGE_EPSILON_CUTOFF 95
#define DECODING_STAGE_ETA_CUTOFF 96
#define DECODING_STAGE_TOP_A 97
#define DECODING_STAGE_XTC 98
#define DECODING_STAGE_MIROSTAT 99
#define DECODING_STAGE_CUT 100
#define DECODING_STAGE_DRAW 110

/* What the reported log-probabilities speak of. */
#define DECODING_LOGPROBS_NONE 0
#define DECODING_LOGPROBS_RAW 1       /* log-softmax of the untouched row */
#define DECODING_LOGPROBS_PENALIZED 2 /* after the hard masks, at temperature 1 */
#define DECODING_LOGPROBS_SCALED 3    /* after temperature, before truncation */
#define DECODING_LOGPROBS_FINAL 4     /* the distribution that was drawn from */

#define DECODING_MAX_MODES 4 /* modes that one row may ask for at once: the length of its arrays of modes */

/* Flags of a row. */
#define DECODING_WANT_RAW_LOGPROB 1u /* report raw_logprob whatever the modes say (a best_of ranking needs it) */
#define DECODING_FORCE_TOKEN 2u      /* do not draw: report on forced_token_id */
#define DECODING_MIROSTAT 4u         /* mirostat stands in place of the truncations, and `surprise` is reported */

/* Flags of a batch. */
#define DECODING_MASK_NAN 1u     /* NaN counts as -inf instead of failing its row; +inf still fails */
#define DECODING_PLAIN_SEARCH 2u /* find top_k and top_p slowly and simply: the same bits, for tests and benchmarks */

/* Rules of a batch: where peers differ from the default (docs/semantics.md, section 9). */
#define DECODING_RULE_KEEP_TIES 1u       /* top_k, typical_p and the one token that every stage keeps: with all ties */
#define DECODING_RULE_TYPICAL_EXCEEDS 2u /* typical_p needs a mass above p; at least p otherwise */
#define DECODING_RULE_PENALTIES_IN_SCOPE 4u /* frequency and presence count in the repetition penalty's scope */

#define DECODING_TOP_K_OFF INT32_MAX
#define DECODING_DRY_RANGE_ALL INT32_MAX
#define DECODING_MAX_VOCAB_SIZE 1048576

/* Token sequences, one after another in one array. */
typedef struct decoding_sequences {
  const int32_t *token_ids; /* [sum of lengths] */
  const int32_t *lengths;   /* [num_sequences], each >= 1 */
  int32_t num_sequences;
  int32_t reserved; /* 0 */
} decoding_sequences;

/* What one row asks for. Read only; every array stays yours. */
typedef struct decoding_row {
  uint32_t struct_size;
  uint32_t flags; /* DECODING_WANT_RAW_LOGPROB | DECODING_FORCE_TOKEN | DECODING_MIROSTAT */

  /* The draw: Philox4x64-10 with key (seed, stream) and counter (position, choice, draw id, attempt). */
  uint64_t seed;
  uint64_t stream;
  uint64_t position; /* number of tokens generated so far */
  uint64_t choice;

  /* Stage 8. Quadratic smoothing shapes the logits first, then comes the (dynamic) temperature. */
  float temperature;       /* >= 0; below 2^-20 is greedy */
  float dynatemp_range;    /* >= 0; 0 is off */
  float dynatemp_exponent; /* > 0 */
  float smoothing_factor;  /* >= 0; 0 is off */
  float smoothing_curve;   /* 1 .. 3 */

  /* Stage 9. */
  int32_t top_k;         /* >= 1; DECODING_TOP_K_OFF is off */
  float top_p;           /* 0 .. 1; 1 is off */
  float min_p;           /* 0 .. 1; 0 is off */
  float typical_p;       /* 0 .. 1; 1 is off */
  float top_n_sigma;     /* >= 0; INFINITY is off */
  float epsilon_cutoff;  /* 0 .. 1; 0 is off */
  float eta_cutoff;      /* 0 .. 1; 0 is off */
  float top_a;           /* 0 .. 1; 0 is off */
  float xtc_probability; /* 0 .. 1; 0 is off */
  float xtc_threshold;   /* 0 .. 1 */
  uint32_t reserved;     /* 0 */
  double mirostat_mu;    /* with DECODING_MIROSTAT: tokens of a surprise above this, in bits, are dropped; >= 0 */

  /* Stages 2 to 4. */
  float repetition_penalty;        /* > 0; 1 is off */
  float frequency_penalty;         /* finite; 0 is off */
  float presence_penalty;          /* finite; 0 is off */
  float context_frequency_penalty; /* finite; 0 is off */
  float dry_multiplier;            /* finite, >= 0; 0 is off */
  float dry_base;                  /* finite, >= 1 */
  int32_t dry_allowed_length;      /* >= 1: repetitions shorter than this are free */
  int32_t dry_range;               /* >= 1: the last so many tokens are looked at; DECODING_DRY_RANGE_ALL is all */

  /* History for the penalties: distinct token ids, and for each how often it stands in the scope of the repetition
   * penalty, in the output, and in prompt + output. All four arrays have num_history elements. */
  int32_t num_history;
  int32_t num_bias;
  const int32_t *history_token_ids;
  const int32_t *history_scope_counts;
  const int32_t *history_output_counts;
  const int32_t *history_total_counts;

  const int32_t *bias_token_ids; /* [num_bias], each id once */
  const float *bias_values;      /* [num_bias], finite */

  /* Prompt + output in order, for DRY, no_repeat_ngram and bad words; none of the three without it. */
  const int32_t *context_token_ids; /* [num_context] */
  int32_t num_context;
  int32_t no_repeat_ngram_size;    /* >= 1; 0 is off */
  decoding_sequences dry_breakers; /* no repetition reaches across one; no penalty for one of a single token */
  decoding_sequences bad_words;    /* the last token of each is banned where the others stand at the end */

  int32_t num_banned;
  int32_t num_allowed;
  const int32_t *banned_token_ids;  /* [num_banned] */
  const int32_t *allowed_token_ids; /* [num_allowed]; null: all are allowed */
  const uint32_t *bitmask; /* [(vocab_size + 31) / 32]; bit i % 32 of word i / 32 is 1 where id i is allowed; or null */

  int32_t logprobs_modes[4]; /* DECODING_LOGPROBS_*, each at most once, then _NONE to the end */
  int32_t num_top;         /* 0 .. batch.top_stride: how many of the most likely tokens to report, by the first mode */
  int32_t forced_token_id; /* with DECODING_FORCE_TOKEN */
} decoding_row;

/* What came of one row. Written whole, whatever happens. */
typedef struct decoding_result {
  int32_t status;       /* DECODING_OK, or why the row failed (then token_id is -1) */
  int32_t stage;        /* DECODING_STAGE_* where it failed */
  int32_t bad_token_id; /* the first offending id of a failed row, or -1 */
  int32_t token_id;
  int32_t rank;      /* 1 = first of the total order that the first mode speaks of; 0 without a mode */
  int32_t num_top;   /* entries written to top_token_ids and, for each mode, to top_logprobs */
  float raw_logprob; /* raw mode; NaN unless asked for by a mode or by the flag */
  float surprise;    /* -log2 of the probability that the token was drawn with; NaN without DECODING_MIROSTAT */
  float logprobs[4]; /* in the row's modes; NaN past the last */
} decoding_result;

/* One call: rows of equal vocabulary and element type, each with parameters of its own. */
typedef struct decoding_batch {
  uint32_t struct_size;
  uint32_t flags;                  /* DECODING_MASK_NAN | DECODING_PLAIN_SEARCH */
  uint32_t rules;                  /* DECODING_RULE_* */
  int32_t dtype;                   /* DECODING_FLOAT32 / FLOAT16 / BFLOAT16 */
  int32_t vocab_size;              /* 1 .. DECODING_MAX_VOCAB_SIZE */
  int32_t num_valid_tokens;        /* ids >= this are padding and never drawn; vocab_size where there is none */
  int32_t num_rows;                /* >= 0 */
  int32_t num_stages;              /* of `stages` */
  const int32_t *stages;           /* the stages from 20 to 99 to run, in this order, each once, edits before 80;
                                    * or null: all of them, in the order of their numbers */
  const void *logits;              /* row 0; any alignment */
  int64_t row_stride;              /* bytes from one row to the next; any sign */
  const decoding_row *const *rows; /* [num_rows] */
  decoding_result *results;        /* [num_rows], written */
  int32_t *top_token_ids;          /* [num_rows, top_stride], written: -1 where there is no entry; or null */
  float *top_logprobs;   /* [num_rows, top_modes, top_stride], written: -inf where there is no entry; or null */
  int64_t top_stride;    /* elements from one list of entries to the next */
  int64_t top_modes;     /* lists of top_logprobs a row: at least the number of modes of every row */
  void *workspace;       /* scratch; any alignment; contents do not matter before or after */
  size_t workspace_size; /* bytes; at least decoding_workspace_size() */
} decoding_batch;

/* Bytes of workspace for rows of this vocabulary with num_history + num_bias + num_context of at most max_edits.
 * Returns 0 where vocab_size or max_edits is out of range. */
DECODING_API size_t decoding_workspace_size(int32_t vocab_size, int64_t max_edits);

/* Draws one token for every row of the batch. Returns DECODING_OK, DECODING_ROW_FAILED where results[] tells of at
 * least one failed row (the others are complete), or the reason why the batch was refused (then nothing is written). */
DECODING_API int32_t decoding_sample(const decoding_batch *batch);

/* Writes the distribution that decoding_sample draws from: probabilities[num_rows, vocab_size], row-major, float64.
 * Takes the same batch; of results only status, stage and bad_token_id mean anything. Returns as decoding_sample. */
DECODING_API int32_t decoding_probabilities(const decoding_batch *batch, double *probabilities);

/* A short English sentence for a DECODING_* status; static storage, never null. */
DECODING_API const char *decoding_status_message(int32_t status);

/* Philox4x64-10 (Salmon et al. 2011, Random123): 4 counter words and 2 key words in, 4 random words out. */
DECODING_API void decoding_philox4x64(const uint64_t counter[4], const uint64_t key[2], uint64_t out[4]);

/* Instruction sets of this build, widest first: "avx512", "avx2", "portable". Null past the last. */
DECODING_API const char *decoding_isa_name(int32_t index);
/* 1 where this CPU can run the set of that name, else 0. */
DECODING_API int32_t decoding_isa_available(const char *name);
/* The set in use; the widest available one unless another was forced. Static storage, never null. */
DECODING_API const char *decoding_active_isa(void);
/* Uses the named set from now on; null goes back to the widest. Returns DECODING_OK, _UNKNOWN_ISA or _ABSENT_ISA. */
DECODING_API int32_t decoding_force_isa(const char *name);

/* ---- The forward pass: from token ids to a row of logits ----
 *
 * A decoder network is described once, by a plan: sizes, norms, packed matrices, flags. One call per step then computes
 * the new tokens of any number of sequences, and keeps their keys and values in a cache of blocks of
 * DECODING_KV_BLOCK tokens, which block tables assign to sequences.
 *
 * The same weights, tokens and positions give the same bits of logits: alone or in a batch, whole or in chunks, for any
 * order of the blocks, number of threads and instruction set. docs/adr/0010-forward-order.md defines the order of
 * operations. Memory that no token has written is never read into a result.
 *
 * The library starts no threads; it hands out tasks through `parallel_for`. */
#define DECODING_KV_BLOCK 16

#define DECODING_NORM_NONE 0
#define DECODING_NORM_RMS 1   /* x / sqrt(mean(x^2) + eps) * weight */
#define DECODING_NORM_LAYER 2 /* (x - mean(x)) / sqrt(var(x) + eps) * weight + bias */

#define DECODING_ACT_LINEAR 0
#define DECODING_ACT_RELU 1
#define DECODING_ACT_RELU2 2      /* relu(x)^2 */
#define DECODING_ACT_RELU6 3      /* min(relu(x), 6) */
#define DECODING_ACT_LEAKY_RELU 4 /* max(x, 0.01 x) */
#define DECODING_ACT_SIGMOID 5
#define DECODING_ACT_SILU 6       /* x sigmoid(x) */
#define DECODING_ACT_QUICK_GELU 7 /* x sigmoid(1.702 x) */
#define DECODING_ACT_TANH 8
#define DECODING_ACT_GELU 9       /* x (1 + erf(x / sqrt(2))) / 2 */
#define DECODING_ACT_GELU_10 10   /* the same, clipped to -10 .. 10 */
#define DECODING_ACT_GELU_TANH 11 /* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
#define DECODING_ACT_MISH 12      /* x tanh(log(1 + exp(x))) */
#define DECODING_ACT_HARDSWISH 13 /* x min(max(x + 3, 0), 6) / 6 */

/* y = W x + bias. */
typedef struct decoding_matrix {
  int32_t type;        /* DECODING_FLOAT32 / FLOAT16 / BFLOAT16, or a quantised type */
  int32_t num_outputs; /* without those of `rest` */
  int32_t num_inputs;
  int32_t reserved;   /* 0 */
  const void *panels; /* as decoding_pack wrote them; fastest at a multiple of 64 bytes */
  const float *bias;  /* [num_outputs]; or null */
  /* Further outputs, whose weights have another type; or null. Of `qkv` alone; num_outputs is then a multiple of 16,
   * and either all types are quantised or none. */
  const struct decoding_matrix *rest;
} decoding_matrix;

typedef struct decoding_norm {
  int32_t kind;        /* DECODING_NORM_* */
  int32_t size;        /* numbers that are normalised together */
  float eps;           /* >= 0 */
  int32_t reserved;    /* 0 */
  const float *weight; /* [size] */
  const float *bias;   /* [size], with DECODING_NORM_LAYER; or null */
} decoding_norm;

/* h += residual_scale * attention_out_norm(output(attention(qkv(attention_norm(h)))));
 * h += residual_scale * mlp_out_norm(down(act(up(mlp_norm(h))))); with parallel_residual both read the same h. */
typedef struct decoding_layer {
  decoding_norm attention_norm;     /* size: hidden_size */
  decoding_norm query_norm;         /* size: head_dim, each head by itself, or num_heads * head_dim */
  decoding_norm key_norm;           /* size: head_dim, or num_kv_heads * head_dim */
  decoding_norm attention_out_norm; /* size: hidden_size */
  decoding_norm mlp_norm;           /* size: hidden_size */
  decoding_norm mlp_out_norm;       /* size: hidden_size */
  decoding_matrix qkv;              /* outputs: num_heads queries, num_kv_heads keys, num_kv_heads values of head_dim */
  decoding_matrix output;           /* num_heads * head_dim to hidden_size */
  decoding_matrix up;               /* hidden_size to intermediate_size; with `gated` to twice that, [gate, up] */
  decoding_matrix down;             /* intermediate_size to hidden_size */
  int32_t rope;                     /* which rotary table turns queries and keys; -1: none */
  int32_t window;                   /* a query sees so many tokens, itself included; 0: all before it */
  float scale;                      /* what products of queries and keys are multiplied with */
  int32_t reserved;                 /* 0 */
} decoding_layer;

typedef struct decoding_plan {
  uint32_t struct_size;
  int32_t vocab_size; /* 1 .. DECODING_MAX_VOCAB_SIZE */
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t num_heads; /* a multiple of num_kv_heads */
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t num_layers;
  int32_t activation;           /* DECODING_ACT_* */
  int32_t gated;                /* 1: act(gate) * up */
  int32_t parallel_residual;    /* 1: both halves of a layer read the same input */
  int32_t num_ropes;            /* rotary tables that layers choose from */
  const int32_t *rope_pairs;    /* [num_ropes] pairs (j, j + pairs) of each head that turn; 2 * pairs <= head_dim */
  float attention_cap;          /* scores become cap * tanh(score / cap); 0: none */
  float logits_cap;             /* the same for logits; 0: none */
  float embedding_scale;        /* multiplies embeddings */
  float residual_scale;         /* multiplies what each half of a layer adds */
  float logits_scale;           /* multiplies logits, before their cap */
  int32_t embedding_type;       /* as of a matrix; rows of a quantised type are blocks */
  const void *embedding;        /* row 0 of [vocab_size, hidden_size]; any alignment */
  int64_t embedding_stride;     /* bytes from one row to the next */
  const float *positions;       /* learned position embeddings [num_positions, hidden_size]; or null */
  int32_t num_positions;        /* 0 without `positions` */
  int32_t reserved;             /* 0 */
  const decoding_layer *layers; /* [num_layers] */
  decoding_norm norm;           /* after the last layer */
  decoding_matrix head;         /* hidden_size to vocab_size */
} decoding_plan;

/* A task runs on any thread; `worker` is 0 .. num_workers - 1, and no two tasks run as one worker at the same time. */
typedef void (*decoding_task)(void *argument, int32_t index, int32_t worker);
/* Runs task(argument, i, worker) once for each i of 0 .. num_tasks - 1, in any order, and returns when all are done. */
typedef void (*decoding_parallel_for)(void *host, int32_t num_tasks, decoding_task task, void *argument);

/* One step. The new tokens of a sequence have the positions start, start + 1, ...; those before `start` are in the
 * cache. Rows of rotary tables: [cos of each pair, then sin of each pair], from decoding_rotary_table. */
typedef struct decoding_forward_batch {
  uint32_t struct_size;
  int32_t num_sequences;  /* >= 1 */
  const int32_t *num_new; /* [num_sequences] new tokens, each >= 1 */
  const int32_t *start;   /* [num_sequences] position of the first new token */
  const int32_t *const
      *block_tables;            /* [num_sequences] -> the blocks of positions 0 .. start + num_new - 1, in order */
  const int32_t *token_ids;     /* [total of num_new], sequence after sequence */
  const float *const *rotary;   /* [num_ropes, total] -> [2 * pairs] each; null without ropes */
  int32_t num_logits;           /* >= 0 */
  int32_t num_workers;          /* >= 1; 1 without parallel_for */
  const int32_t *logits_tokens; /* [num_logits] which of the new tokens logits are wanted for, ascending */
  float *logits;                /* [num_logits, logits_stride], written: vocab_size of each row */
  int64_t logits_stride;        /* elements */
  void *kv_cache;               /* [num_blocks] of decoding_kv_block_size() bytes; at a multiple of 4 bytes */
  void *workspace;              /* scratch; at a multiple of 4 bytes */
  size_t workspace_size;        /* bytes; at least decoding_forward_workspace_size() */
  decoding_parallel_for parallel_for; /* null: everything on the calling thread */
  void *host;                         /* first argument of parallel_for */
  int32_t num_blocks;
  int32_t reserved; /* 0 */
} decoding_forward_batch;

/* Bytes of a matrix's panels; 0 where an argument is out of range. Rows of a quantised type are whole blocks:
 * num_inputs is a multiple of 32 or (K) of 256. */
DECODING_API size_t decoding_packed_size(int32_t type, int32_t num_outputs, int32_t num_inputs);

/* Packs num_rows rows of weights, row-major and of the matrix's type (for a quantised one, blocks of a GGUF file), as
 * the outputs from first_output on. Output first_output + i is row order[i] of `rows`; order null: row i. The call that
 * has the last output also writes the padding behind it. Calls for different outputs may run at the same time. Returns
 * DECODING_OK or _BAD_ARGUMENT. */
DECODING_API int32_t decoding_pack(int32_t type, int32_t num_outputs, int32_t num_inputs, void *panels,
                                   int32_t first_output, int32_t num_rows, const void *rows, int64_t row_stride,
                                   const int32_t *order);

/* Rows of a rotary table for num_positions positions from first_position on: cos and sin of position * frequency (a
 * float32 product), each times attention_factor. table: [num_positions, 2 * num_pairs]. NaN where an angle is not below
 * 2^31. Returns DECODING_OK or _BAD_ARGUMENT. */
DECODING_API int32_t decoding_rotary_table(const float *frequencies, int32_t num_pairs, float attention_factor,
                                           int32_t first_position, int32_t num_positions, float *table);

/* Bytes of a block of the cache, all layers; blocks may be copied as bytes, what is in them is private. Returns 0 for a
 * plan that decoding_forward refuses. */
DECODING_API size_t decoding_kv_block_size(const decoding_plan *plan);

/* Bytes of workspace for a batch of so many tokens and rows of logits. Returns 0 where an argument is out of range. */
DECODING_API size_t decoding_forward_workspace_size(const decoding_plan *plan, int32_t num_tokens, int32_t num_logits,
                                                    int32_t num_workers);

/* Computes one step. Returns DECODING_OK or the reason why the batch was refused (then nothing is written). Weights
 * that make a number overflow give infinite logits or NaN. */
DECODING_API int32_t decoding_forward(const decoding_plan *plan, const decoding_forward_batch *batch);

#ifdef __cplusplus
}
#endif

#endif
