/* decoding.h: public interface of the sampling kernel, which draws tokens from rows of logits.
 *
 * The library is a guest in your process. It does not allocate, print, abort, start threads, read the environment or
 * keep state beyond one integer (the instruction set in use). All buffers are yours, inputs are only read, and no
 * pointer is kept after a call returns. Rounding and flush-to-zero modes are set on entry and restored on exit.
 *
 * The same logits, parameters and seed give the same token and the same bits of its log-probability on every
 * instruction set, at every alignment and in every batch. docs/semantics.md defines the stages and the terms.
 *
 * Threads: every function may be called from any number of threads at once, if no two calls share a workspace or a
 * results array. decoding_force_isa may run beside other calls; it affects later calls only.
 *
 * Versions: decoding_batch and decoding_row begin with their own size, which the caller sets to sizeof(struct). Set all
 * other bytes of a struct to zero before you fill it in, or a row by decoding_row_init. A pointer that is zero means
 * "none" where null is allowed. Fields called `reserved`, and bits of flags and rules that are not listed, must be 0.
 * A program that loads the library at run time compares decoding_abi_version() with its DECODING_ABI_VERSION.
 *
 * Pointers: null is allowed where a comment says so, and for arrays of length 0. Arrays of numbers must be aligned as
 * their type requires, but logits and workspace may have any alignment. Not checked: that arrays are as long as their
 * counts say, and that ids are distinct where this is required.
 */
#ifndef DECODING_H
#define DECODING_H

#include <stddef.h>
#include <stdint.h>

/* Exported by the shared library alone. A shared object of the host that has the static library inside does not export
 * it again, so two versions can be in one process. */
#if defined(_WIN32) && defined(DECODING_SHARED)
#define DECODING_API __declspec(dllexport)
#elif defined(__GNUC__) && defined(DECODING_SHARED)
#define DECODING_API __attribute__((visibility("default")))
#else
#define DECODING_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Incremented when a struct or a signature changes. */
#define DECODING_ABI_VERSION 4
/* Incremented when any drawn token, or any bit of a log-probability, changes for any seed. */
#define DECODING_STREAM_VERSION 1

/* Element types of logits. */
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

/* bfloat16 weights in 12 bits each, without loss: panels that decoding_code_bfloat16 makes. Of matrices alone. */
#define DECODING_BFLOAT16_CODED 11

/* Status of a call or of a row. */
#define DECODING_OK 0
#define DECODING_ROW_FAILED 1      /* call: at least one row failed; its result has the reason */
#define DECODING_NONFINITE 2       /* row: NaN or +inf; `stage` and `bad_token_id` say where */
#define DECODING_EMPTY 3           /* row: no token is left; `stage` says which stage banned the last one */
#define DECODING_BAD_TOKEN_ID 4    /* row: an id outside 0 .. vocab_size - 1, which is in `bad_token_id` */
#define DECODING_BAD_ARGUMENT 5    /* call: a null pointer, or a number outside its documented range */
#define DECODING_BAD_SIZE 6        /* call: a `struct_size` is not that of this version */
#define DECODING_SMALL_WORKSPACE 7 /* call: workspace_size is below decoding_workspace_size() */
#define DECODING_UNKNOWN_ISA 8     /* call: no instruction set has this name */
#define DECODING_ABSENT_ISA 9      /* call: this CPU or this build does not have the instruction set */
#define DECODING_WRONG_BUILD 10    /* self-test: the compiler's options have changed bits */
#define DECODING_NOT_CODED 11      /* call: these weights do not fit 12 bits each */

/* Stages of the pipeline, by name in docs/semantics.md. The order of the numbers is the default order. 60 is reserved
 * for edits by the host between logit_bias and hard_masks. */
#define DECODING_STAGE_FINITE_CHECK 0
#define DECODING_STAGE_RAW_SNAPSHOT 10
#define DECODING_STAGE_REPETITION_PENALTY 20
#define DECODING_STAGE_FREQUENCY_PRESENCE 30
#define DECODING_STAGE_DRY 35
#define DECODING_STAGE_CONTEXT_FREQUENCY_PENALTY 40
#define DECODING_STAGE_LOGIT_BIAS 50
#define DECODING_STAGE_HARD_MASKS 70
#define DECODING_STAGE_TEMPERATURE 80
#define DECODING_STAGE_TOP_H 81
#define DECODING_STAGE_P_LESS 82
#define DECODING_STAGE_MIN_K 83
#define DECODING_STAGE_TFS 84
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
#define DECODING_STAGE_ADAPTIVE_P 101
#define DECODING_STAGE_SKEW 102
#define DECODING_STAGE_DRAW 110

/* The distribution that log-probabilities refer to. All are natural logarithms. */
#define DECODING_LOGPROBS_NONE 0
#define DECODING_LOGPROBS_RAW 1       /* log-softmax of the row as it was passed in */
#define DECODING_LOGPROBS_PENALIZED 2 /* after stage hard_masks, at temperature 1 */
#define DECODING_LOGPROBS_SCALED 3    /* after stage temperature, before the truncations */
#define DECODING_LOGPROBS_FINAL 4     /* the distribution that the token is drawn from */

#define DECODING_MAX_MODES 4 /* number of modes that one row may ask for */

/* Flags of a row. */
#define DECODING_WANT_RAW_LOGPROB 1u /* report raw_logprob whatever the modes are, for instance for best_of */
#define DECODING_FORCE_TOKEN 2u      /* do not draw; report on forced_token_id */
#define DECODING_MIROSTAT 4u         /* mirostat replaces the truncations; report `surprise` */
#define DECODING_MIROSTAT_V1 8u      /* with DECODING_MIROSTAT: its version 1, which keeps a number of tokens */
#define DECODING_P_LESS 16u          /* stage p_less, with the collision probability as its threshold */
#define DECODING_P_LESS_NORM 32u     /* the same with the relaxed threshold; the first has precedence */
#define DECODING_ADAPTIVE_P 64u      /* stage adaptive_p prefers tokens near adaptive_p_center; report `surprise` */
#define DECODING_ALLOW_ZEROS 32768u  /* fields marked (*) may be 0, which a forgotten field is, too */

/* Flags of a batch. */
#define DECODING_MASK_NAN 1u      /* NaN counts as -inf instead of failing its row; +inf still fails */
#define DECODING_PLAIN_SEARCH 2u  /* use the simple, slow search for top_k and top_p: same bits, for tests */
#define DECODING_SHARED_LOGITS 4u /* row_stride is 0: all rows read the same logits */

/* Rules of a batch, for compatibility with other engines (docs/semantics.md, section 9):
 * KEEP_TIES: top_k, typical_p and "every truncation keeps at least one token" keep all tokens that tie with the last
 * one. TYPICAL_EXCEEDS: typical_p keeps a mass above p; without the rule, a mass of at least p. PENALTIES_IN_SCOPE:
 * frequency and presence penalty count in the scope of the repetition penalty, not in the output. TOP_P_EXCEEDS: top_p
 * keeps a mass above p. TOP_P_TIES, XTC_TIES: top_p, or xtc, keeps all tokens that tie with the last one it keeps. */
#define DECODING_RULE_KEEP_TIES 1u
#define DECODING_RULE_TYPICAL_EXCEEDS 2u
#define DECODING_RULE_PENALTIES_IN_SCOPE 4u
#define DECODING_RULE_TOP_P_EXCEEDS 8u
#define DECODING_RULE_TOP_P_TIES 16u
#define DECODING_RULE_XTC_TIES 32u

#define DECODING_TOP_K_OFF INT32_MAX
#define DECODING_DRY_RANGE_ALL INT32_MAX
#define DECODING_MAX_VOCAB_SIZE 1048576

/* Scopes of the repetition penalty in a decoding_history; a number N >= 1 is the last N tokens. */
#define DECODING_SCOPE_ALL 0 /* prompt + output */
#define DECODING_SCOPE_OUTPUT -1

/* Token sequences, stored one after another. */
typedef struct decoding_sequences {
  const int32_t *token_ids; /* [sum of lengths] */
  const int32_t *lengths;   /* [num_sequences], each >= 1 */
  int32_t num_sequences;    /* >= 0; if it is 0, both arrays may be null */
  int32_t reserved;
} decoding_sequences;

/* Parameters of one row. Numbers outside of their range, and NaN, are a DECODING_BAD_ARGUMENT. Token ids outside of the
 * vocabulary fail the row with DECODING_BAD_TOKEN_ID; those of the context are checked only if a stage reads them, and
 * those of dry_breakers are not checked. */
typedef struct decoding_row {
  uint32_t struct_size; /* sizeof(decoding_row) */
  uint32_t flags;       /* DECODING_WANT_RAW_LOGPROB | DECODING_FORCE_TOKEN | DECODING_MIROSTAT | ... */

  /* Stage draw: Philox4x64-10 with key (seed, stream) and counter (position, choice, draw id, attempt). */
  uint64_t seed;
  uint64_t stream;
  uint64_t position; /* number of tokens generated so far */
  uint64_t choice;

  /* Stage temperature: quadratic smoothing first, then the temperature or the dynamic temperature. */
  float temperature;       /* >= 0; below 2^-20 is greedy */
  float dynatemp_range;    /* >= 0; 0 is off */
  float dynatemp_exponent; /* > 0; checked if dynatemp_range is on */
  float smoothing_factor;  /* >= 0; 0 is off */
  float smoothing_curve;   /* 1 .. 3; checked if smoothing_factor is on */

  /* Truncations, the stages of the same names. (*) 0 keeps one token, if DECODING_ALLOW_ZEROS allows it. */
  int32_t top_k;         /* >= 1; DECODING_TOP_K_OFF is off */
  float top_p;           /* 0 (*) .. 1; 1 is off */
  float min_p;           /* 0 .. 1; 0 is off */
  float typical_p;       /* 0 (*) .. 1; 1 is off */
  float top_n_sigma;     /* >= 0 (*), in standard deviations; INFINITY is off */
  float epsilon_cutoff;  /* 0 .. 1; 0 is off */
  float eta_cutoff;      /* 0 .. 1; 0 is off */
  float top_a;           /* 0 .. 1; 0 is off */
  float xtc_probability; /* 0 .. 1; 0 is off */
  float xtc_threshold;   /* 0 .. 1, a probability */
  uint32_t reserved;
  double mirostat_mu; /* in bits: tokens with a larger surprise are dropped. Below 0 is as 0, which keeps one token; no
                       * NaN with DECODING_MIROSTAT */

  /* Penalties, in units of the logits. */
  float repetition_penalty;        /* > 0, a factor; 1 is off */
  float frequency_penalty;         /* finite, per occurrence; 0 is off */
  float presence_penalty;          /* finite; 0 is off */
  float context_frequency_penalty; /* finite, per occurrence; 0 is off */
  float dry_multiplier;            /* finite, >= 0; 0 is off; the next three are checked if it is on */
  float dry_base;                  /* finite, >= 1 */
  int32_t dry_allowed_length;      /* >= 1, in tokens: shorter repetitions are not penalized */
  int32_t dry_range;               /* >= 1: number of last tokens that are searched; or DECODING_DRY_RANGE_ALL */

  /* History for the penalties that count: distinct token ids, and how often each occurs in the scope of the repetition
   * penalty, in the output, and in prompt + output. */
  int32_t num_history;                  /* >= 0: length of the four arrays; if it is 0, they may be null */
  int32_t num_bias;                     /* >= 0: length of the two arrays of the bias; if it is 0, they may be null */
  const int32_t *history_token_ids;     /* [num_history] */
  const int32_t *history_scope_counts;  /* [num_history] */
  const int32_t *history_output_counts; /* [num_history] */
  const int32_t *history_total_counts;  /* [num_history] */

  const int32_t *bias_token_ids; /* [num_bias], distinct */
  const float *bias_values;      /* [num_bias], finite, added to the logits */

  /* Prompt + output in order, for DRY, no_repeat_ngram and bad words. Without it, only bad words of one token have an
   * effect. */
  const int32_t *context_token_ids; /* [num_context] */
  int32_t num_context;              /* >= 0 */
  int32_t no_repeat_ngram_size;     /* >= 1, in tokens; 0 is off */
  decoding_sequences dry_breakers; /* repetitions do not extend across one; a breaker of one token is never penalized */
  decoding_sequences bad_words;    /* the last token of each is banned where its other tokens end the context */

  int32_t num_banned;               /* >= 0 */
  int32_t num_allowed;              /* >= 0 */
  const int32_t *banned_token_ids;  /* [num_banned] */
  const int32_t *allowed_token_ids; /* [num_allowed], or null: all tokens are allowed */
  const uint32_t *bitmask; /* [(vocab_size + 31) / 32], or null: bit i % 32 of word i / 32 is 1 if token i is allowed */

  /* The report. */
  int32_t logprobs_modes[DECODING_MAX_MODES]; /* DECODING_LOGPROBS_*, each at most once, then _NONE to the end */
  int32_t num_top;         /* 0 .. batch.top_stride: number of most likely tokens to report, by the first mode */
  int32_t forced_token_id; /* 0 .. vocab_size - 1; used with DECODING_FORCE_TOKEN */

  /* More truncations, and the stages that reshape what is left. */
  float top_h;              /* 0 (*) .. 1; 1 is off */
  float min_k;              /* >= 0 (*); INFINITY is off */
  float tfs;                /* 0 (*) .. 1; 1 is off */
  float skew;               /* -5 .. 5; 0 is off */
  double adaptive_p_center; /* 0 .. 1, a probability; used with DECODING_ADAPTIVE_P */

  /* More of the report: log-probabilities of chosen tokens, in the first mode. */
  const int32_t *chosen_token_ids; /* [num_chosen], each 0 .. vocab_size - 1 */
  int32_t num_chosen;              /* 0 .. batch.chosen_stride */
  int32_t reserved_end;
} decoding_row;

/* Result of one row. Every field is written, also if the row fails. */
typedef struct decoding_result {
  int32_t status;       /* DECODING_OK, _NONFINITE, _EMPTY or _BAD_TOKEN_ID */
  int32_t stage;        /* DECODING_STAGE_* at which the row failed */
  int32_t bad_token_id; /* the first bad id of a failed row, or -1 */
  int32_t token_id;     /* -1 if the row failed */
  int32_t rank;         /* 1 is the first token of the total order, by the first mode; 0 without a mode */
  int32_t num_top;      /* number of entries written to top_token_ids and, per mode, to top_logprobs */
  float raw_logprob;    /* log-probability in mode raw; NaN unless a mode or the flag asked for it */
  float surprise;       /* -log2 of the token's probability in the draw, before the stages adaptive_p and skew, in bits;
                         * NaN without DECODING_MIROSTAT and DECODING_ADAPTIVE_P */
  float logprobs[DECODING_MAX_MODES]; /* in the order of the row's modes; NaN beyond them */
} decoding_result;

/* Arguments of one call: rows of one vocabulary and one element type, each with its own parameters. */
typedef struct decoding_batch {
  uint32_t struct_size;            /* sizeof(decoding_batch) */
  uint32_t flags;                  /* DECODING_MASK_NAN | DECODING_PLAIN_SEARCH | DECODING_SHARED_LOGITS */
  uint32_t rules;                  /* DECODING_RULE_* */
  int32_t dtype;                   /* DECODING_FLOAT32, DECODING_FLOAT16 or DECODING_BFLOAT16 */
  int32_t vocab_size;              /* 1 .. DECODING_MAX_VOCAB_SIZE */
  int32_t num_valid_tokens;        /* 0 .. vocab_size: ids from here on are padding and are never drawn */
  int32_t num_rows;                /* >= 0; if it is 0, all pointers may be null */
  int32_t num_stages;              /* >= 0: length of `stages`; 0 if it is null */
  const int32_t *stages;           /* [num_stages]: the stages from 20 to 102 to run, in this order, each at most once,
                                    * those below 80 first, 101 and 102 last; or null: all in the default order */
  const void *logits;              /* row 0; any alignment */
  int64_t row_stride;              /* bytes from one row to the next; may be negative. Rows must not overlap, or be
                                    * one, with DECODING_SHARED_LOGITS and stride 0. Not checked for one row */
  const decoding_row *const *rows; /* [num_rows], none of them null */
  decoding_result *results;        /* [num_rows], written */
  int32_t *top_token_ids;          /* [num_rows, top_stride], written, -1 after the last entry; may be null if every
                                    * row's num_top is 0 */
  float *top_logprobs;             /* [num_rows, top_modes, top_stride], written, -inf after the last entry; may be null
                                    * under the same condition */
  int64_t top_stride;              /* >= 0, in elements */
  int64_t top_modes;               /* >= the number of modes of every row whose num_top is not 0 */
  float *chosen_logprobs; /* [num_rows, chosen_stride], written, NaN after the last entry, and where the row has
                           * no mode or fails; may be null if every row's num_chosen is 0 */
  int64_t chosen_stride;  /* >= 0, in elements */
  void *workspace;        /* scratch memory; any alignment; its contents do not matter */
  size_t workspace_size;  /* in bytes; at least decoding_workspace_size() */
} decoding_batch;

/* Return the number of bytes of workspace for rows of this vocabulary whose num_history + num_bias + num_context is at
 * most max_edits. Returns 0 if vocab_size is outside 1 .. DECODING_MAX_VOCAB_SIZE or max_edits outside 0 .. INT32_MAX.
 */
DECODING_API size_t decoding_workspace_size(int32_t vocab_size, int64_t max_edits);

/* Draw one token per row. Returns DECODING_OK; or DECODING_ROW_FAILED if at least one row failed, the others being
 * complete; or DECODING_BAD_ARGUMENT, _BAD_SIZE or _SMALL_WORKSPACE, and then nothing is written, and
 * decoding_check_batch names the row and the field. A null batch is a DECODING_BAD_ARGUMENT. */
DECODING_API int32_t decoding_sample(const decoding_batch *batch);

/* Write the distribution that decoding_sample draws from: probabilities[num_rows, vocab_size], row-major; a failed row
 * is all 0. Of the results, only status, stage and bad_token_id are meaningful. Returns as decoding_sample does;
 * probabilities may be null only if num_rows is 0. */
DECODING_API int32_t decoding_probabilities(const decoding_batch *batch, double *probabilities);

/* Set a row to neutral values: every stage is off, the temperature is 1, nothing is reported beyond the token. Seed,
 * stream, position and choice are 0. The row must not be null. */
DECODING_API void decoding_row_init(decoding_row *row);

/* Check what a row can get wrong by itself, for instance when a request arrives. Returns DECODING_OK, _BAD_ARGUMENT or
 * _BAD_SIZE. field: set to the name of the first wrong field, such as "top_p" or "bad_words.lengths", or to null;
 * static storage. `field` may be null. */
DECODING_API int32_t decoding_check_row(const decoding_row *row, const char **field);

/* Check a batch as decoding_sample does, and draw nothing: DECODING_OK, or the status that decoding_sample would refuse
 * it with. row: set to the index of the first wrong row, or to -1 if the fault is in the batch. field: set to the name
 * of the first wrong field of that row or of the batch, or to null. Both pointers may be null. */
DECODING_API int32_t decoding_check_batch(const decoding_batch *batch, int32_t *row, const char **field);

/* Return DECODING_ABI_VERSION and DECODING_STREAM_VERSION of the library that runs, which may be another one than that
 * of the header that a program was compiled with. */
DECODING_API int32_t decoding_abi_version(void);
DECODING_API int32_t decoding_stream_version(void);

/* Draw from a few built-in rows with the instruction set in use, and compare every bit with what this stream version
 * gives. Returns DECODING_OK; or DECODING_WRONG_BUILD if the compiler or its options have changed the arithmetic; or
 * DECODING_SMALL_WORKSPACE below decoding_workspace_size(1000, 0) bytes. */
DECODING_API int32_t decoding_self_test(void *workspace, size_t workspace_size);

/* Return mirostat's bound for the next token: mu - eta * (surprise - tau), of version 2 (Basu et al. 2021). The first
 * bound is 2 * tau. Keep the number as it is, also below 0. */
DECODING_API double decoding_mirostat_next(double mu, float tau, float eta, float surprise);

/* The tokens of one sequence with the counts that a row's penalties need, in memory of the host. Private: read it
 * through decoding_history_use. Every function below takes time in proportion to the tokens that it is given. */
typedef struct decoding_history {
  int32_t max_tokens; /* number of tokens that there is memory for */
  int32_t num_tokens; /* prompt + output */
  int32_t num_prompt;
  int32_t num_distinct; /* number of entries in use of the next five arrays */
  int32_t scope;        /* DECODING_SCOPE_*, or a number of last tokens */
  int32_t table_bits;
  int32_t *token_ids; /* [max_tokens], in order */
  int32_t *distinct_ids;
  int32_t *window_counts;
  int32_t *output_counts;
  int32_t *total_counts;
  int32_t *table; /* [1 << table_bits]: entry + 1 by hash of the token id */
} decoding_history;

/* Return the number of bytes for a history of at most max_tokens tokens, about 36 per token. Returns 0 if max_tokens is
 * outside 1 .. DECODING_MAX_HISTORY. */
#define DECODING_MAX_HISTORY 268435456
DECODING_API size_t decoding_history_size(int32_t max_tokens);

/* Begin a history with a prompt. memory: decoding_history_size(max_tokens) bytes, aligned for int32_t, to be kept until
 * the history is not used any more. Returns DECODING_OK; or DECODING_BAD_ARGUMENT for a null pointer or a number out
 * of range; or DECODING_BAD_TOKEN_ID for a negative id; or DECODING_SMALL_WORKSPACE if the prompt is longer than
 * max_tokens. After an error the history must not be used. */
DECODING_API int32_t decoding_history_init(decoding_history *history, void *memory, int32_t max_tokens, int32_t scope,
                                           const int32_t *prompt_token_ids, int32_t num_prompt);

/* Append generated tokens. Returns as decoding_history_init does; after an error nothing has changed. */
DECODING_API int32_t decoding_history_append(decoding_history *history, const int32_t *token_ids, int32_t num_tokens);

/* Keep the first num_output generated tokens and undo the later ones. Returns DECODING_OK or _BAD_ARGUMENT. */
DECODING_API int32_t decoding_history_truncate(decoding_history *history, int32_t num_output);

/* Return which of the two the parameters of a row read: DECODING_READS_COUNTS, the history for the penalties that
 * count, | DECODING_READS_CONTEXT, the tokens in order. The row must not be null. */
#define DECODING_READS_COUNTS 1
#define DECODING_READS_CONTEXT 2
DECODING_API int32_t decoding_row_reads(const decoding_row *row);

/* Set the position of a row, and let it point to what its parameters read of the history. Call it after each change of
 * the history. Entries of max_edits for decoding_workspace_size: up to 2 * num_tokens. No pointer may be null. */
DECODING_API void decoding_history_use(const decoding_history *history, decoding_row *row);

/* One sequence of a host: its row, and what changes in it from token to token. */
typedef struct decoding_sequence {
  uint32_t struct_size;      /* sizeof(decoding_sequence) */
  int32_t min_tokens;        /* >= 0 */
  int32_t num_ending;        /* >= 0: so many of the row's last banned_token_ids are banned before min_tokens only */
  int32_t num_banned;        /* >= num_ending: length of the row's banned_token_ids */
  float mirostat_tau;        /* the next two are used with DECODING_MIROSTAT */
  float mirostat_eta;        /* decoding_commit sets the row's mirostat_mu */
  decoding_row *row;         /* not null */
  decoding_history *history; /* or null; decoding_commit appends to it, and lets the row point to it */
  double *mirostat_mus;      /* or null; the bound after n output tokens is written to mirostat_mus[n] */
} decoding_sequence;

/* Record the tokens that decoding_sample drew: results[i] belongs to sequences[i], which may be null. Null sequences
 * and rows that failed are left alone. full: set to the index of the first sequence whose history has no room, or to
 * -1; may be null. Returns DECODING_OK; or DECODING_SMALL_WORKSPACE for a full history, _BAD_SIZE or _BAD_ARGUMENT, and
 * then nothing has changed. */
DECODING_API int32_t decoding_commit(decoding_sequence *const *sequences, const decoding_result *results,
                                     int32_t num_sequences, int32_t *full);

/* Return a short English sentence for a status. Static storage, never null, also for an unknown status. */
DECODING_API const char *decoding_status_message(int32_t status);

/* Compute one block of Philox4x64-10 (Salmon et al. 2011, Random123). No argument may be null. */
DECODING_API void decoding_philox4x64(const uint64_t counter[4], const uint64_t key[2], uint64_t out[4]);

/* Return the name of an instruction set of this build, widest first: "avx512", "avx2", "neon", "portable". Returns null
 * if the index is not one of them, so they can be listed from 0 up. Static storage. */
DECODING_API const char *decoding_isa_name(int32_t index);

/* Return 1 if this build has the named set and this CPU can run it, otherwise 0. The name may be null. */
DECODING_API int32_t decoding_isa_available(const char *name);

/* Return the name of the set in use: the widest available one, unless another was forced. Static storage, never null.
 */
DECODING_API const char *decoding_active_isa(void);

/* Use the named set from now on; null selects the widest available one. Returns DECODING_OK; or DECODING_UNKNOWN_ISA or
 * DECODING_ABSENT_ISA, and then nothing changes. */
DECODING_API int32_t decoding_force_isa(const char *name);

/* Ask Linux for the tiles of Intel AMX for this process, and use them from now on for quantised weights, wherever
 * "avx512" is the set in use. Results have the same bits with and without. Linux grants tiles per process and on
 * request only (arch_prctl), so nothing else in the library asks. A test product is computed first. Returns 1 if tiles
 * are in use, otherwise 0: another processor, system or build. May be called again, from any thread. */
DECODING_API int32_t decoding_enable_amx(void);

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
  int32_t type;        /* DECODING_FLOAT32 / FLOAT16 / BFLOAT16 / BFLOAT16_CODED, or a quantised type */
  int32_t num_outputs; /* without those of `rest` */
  int32_t num_inputs;
  int32_t reserved;   /* 0 */
  const void *panels; /* as decoding_pack wrote them; fastest at a multiple of 64 bytes */
  const float *bias;  /* [num_outputs]; or null */
  /* Further outputs, whose weights have another type; or null. Of `qkv` and `up` alone; num_outputs is then a
   * multiple of 16, and either all types are quantised or none. */
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

/* Writes panels of bfloat16, which decoding_pack has filled, with 12 bits per weight: panels of a matrix of the type
 * DECODING_BFLOAT16_CODED, decoding_packed_size() bytes of it for 16 * num_panels outputs. Logits have the same bits as
 * with the panels themselves, and a quarter less is read. num_inputs is a multiple of 4 below 2^20. Panels may be
 * written by several calls, also at the same time. Returns DECODING_OK, _BAD_ARGUMENT, or _NOT_CODED: a panel has more
 * than 16 different upper bytes, but for a few weights. Use the panels themselves then. */
DECODING_API int32_t decoding_code_bfloat16(int32_t num_inputs, int32_t num_panels, const void *panels, void *coded);

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
