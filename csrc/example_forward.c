/* Greedy decoding from C: ./example_forward FILE COUNT TOKEN...
 *
 * FILE is written by decoding.models.native_file.write_plan, which describes it: numbers of 4 bytes, little-endian, in
 * the order in which read_plan takes them. Prints COUNT tokens and, in hexadecimal, a hash of all bits of their logits.
 * Errors end the program; memory is freed by its end. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decoding.h"

#define MAGIC 0x4C504B44u /* "DKPL" */
#define MAX_ROPES 8

typedef struct model {
  decoding_plan plan;
  int32_t rope_pairs[MAX_ROPES];
  float *frequencies[MAX_ROPES];
  float attention_factor[MAX_ROPES];
} model;

static void require(int condition, const char *what) {
  if (!condition) {
    fprintf(stderr, "%s\n", what);
    exit(1);
  }
}

static void *allocate(size_t size) {
  void *memory = malloc(size > 0 ? size : 1);
  require(memory != NULL, "no memory");
  return memory;
}

static void *read_bytes(FILE *file, size_t size) {
  void *memory = allocate(size);
  require(fread(memory, 1, size, file) == size, "the file ends too early");
  return memory;
}

static int32_t read_integer(FILE *file) {
  int32_t number;
  require(fread(&number, sizeof number, 1, file) == 1, "the file ends too early");
  return number;
}

static float read_float(FILE *file) {
  float number;
  require(fread(&number, sizeof number, 1, file) == 1, "the file ends too early");
  return number;
}

static float *read_floats(FILE *file, int32_t count) {
  return (float *)read_bytes(file, (size_t)count * sizeof(float));
}

static decoding_norm read_norm(FILE *file) {
  decoding_norm norm;
  memset(&norm, 0, sizeof norm);
  norm.kind = read_integer(file);
  norm.size = read_integer(file);
  norm.eps = read_float(file);
  int32_t has_bias = read_integer(file);
  norm.weight = norm.kind == DECODING_NORM_NONE ? NULL : read_floats(file, norm.size);
  norm.bias = has_bias ? read_floats(file, norm.size) : NULL;
  return norm;
}

static decoding_matrix read_matrix(FILE *file) {
  decoding_matrix matrix;
  memset(&matrix, 0, sizeof matrix);
  matrix.type = read_integer(file);
  matrix.num_outputs = read_integer(file);
  matrix.num_inputs = read_integer(file);
  int32_t has_bias = read_integer(file);
  matrix.panels = read_bytes(file, decoding_packed_size(matrix.type, matrix.num_outputs, matrix.num_inputs));
  matrix.bias = has_bias ? read_floats(file, matrix.num_outputs) : NULL;
  return matrix;
}

static decoding_layer read_layer(FILE *file) {
  decoding_layer layer;
  memset(&layer, 0, sizeof layer);
  layer.attention_norm = read_norm(file);
  layer.query_norm = read_norm(file);
  layer.key_norm = read_norm(file);
  layer.attention_out_norm = read_norm(file);
  layer.mlp_norm = read_norm(file);
  layer.mlp_out_norm = read_norm(file);
  layer.qkv = read_matrix(file);
  layer.output = read_matrix(file);
  layer.up = read_matrix(file);
  layer.down = read_matrix(file);
  layer.rope = read_integer(file);
  layer.window = read_integer(file);
  layer.scale = read_float(file);
  return layer;
}

static void read_ropes(FILE *file, model *model) {
  require(model->plan.num_ropes >= 0 && model->plan.num_ropes <= MAX_ROPES, "too many rotary tables");
  for (int32_t i = 0; i < model->plan.num_ropes; i++) {
    model->rope_pairs[i] = read_integer(file);
    model->attention_factor[i] = read_float(file);
    model->frequencies[i] = read_floats(file, model->rope_pairs[i]);
  }
  model->plan.rope_pairs = model->rope_pairs;
}

static void read_plan(FILE *file, model *model) {
  decoding_plan *plan = &model->plan;
  memset(model, 0, sizeof *model);
  require((uint32_t)read_integer(file) == MAGIC && read_integer(file) == 1, "not a plan of version 1");
  plan->struct_size = sizeof *plan;
  int32_t *const integers[] = {
      &plan->vocab_size, &plan->hidden_size,    &plan->intermediate_size, &plan->num_heads, &plan->num_kv_heads,
      &plan->head_dim,   &plan->num_layers,     &plan->activation,        &plan->gated,     &plan->parallel_residual,
      &plan->num_ropes,  &plan->embedding_type, &plan->num_positions};
  for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++)
    *integers[i] = read_integer(file);
  float *const floats[] = {&plan->attention_cap, &plan->logits_cap, &plan->embedding_scale, &plan->residual_scale,
                           &plan->logits_scale};
  for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
    *floats[i] = read_float(file);
  read_ropes(file, model);
  plan->embedding_stride = (int64_t)plan->hidden_size * (plan->embedding_type == DECODING_FLOAT32 ? 4 : 2);
  plan->embedding = read_bytes(file, ((size_t)plan->vocab_size * (size_t)plan->embedding_stride + 3) / 4 * 4);
  if (plan->num_positions > 0)
    plan->positions = read_floats(file, plan->num_positions * plan->hidden_size);
  decoding_layer *layers = (decoding_layer *)allocate((size_t)plan->num_layers * sizeof(decoding_layer));
  for (int32_t i = 0; i < plan->num_layers; i++)
    layers[i] = read_layer(file);
  plan->layers = layers;
  plan->norm = read_norm(file);
  plan->head = read_matrix(file);
}

/* Rows of all rotary tables for positions 0 .. length - 1, one pointer each. */
static const float **make_rotary(const model *model, int32_t length) {
  const decoding_plan *plan = &model->plan;
  const float **rows = (const float **)allocate((size_t)(plan->num_ropes * length) * sizeof(float *));
  for (int32_t i = 0; i < plan->num_ropes; i++) {
    int32_t pairs = plan->rope_pairs[i];
    float *table = (float *)allocate((size_t)length * 2 * (size_t)pairs * sizeof(float));
    int32_t status = decoding_rotary_table(model->frequencies[i], pairs, model->attention_factor[i], 0, length, table);
    require(status == DECODING_OK, decoding_status_message(status));
    for (int32_t position = 0; position < length; position++)
      rows[i * length + position] = table + (size_t)position * 2 * (size_t)pairs;
  }
  return rows;
}

static int32_t most_likely(const float *logits, int32_t size, uint64_t *hash) {
  int32_t best = 0;
  for (int32_t i = 0; i < size; i++) {
    uint32_t bits;
    memcpy(&bits, &logits[i], sizeof bits);
    *hash = (*hash ^ bits) * UINT64_C(0x100000001B3); /* FNV-1a, by words */
    if (logits[i] > logits[best])
      best = i;
  }
  return best;
}

/* One step for tokens [start, end) of the only sequence; the next token. */
static int32_t step(const decoding_plan *plan, decoding_forward_batch *batch, const int32_t *tokens, int32_t start,
                    int32_t end, const float *const *rotary, int32_t length, uint64_t *hash) {
  const int32_t num_new = end - start, last = num_new - 1;
  const float **rows = (const float **)allocate((size_t)(plan->num_ropes * num_new) * sizeof(float *));
  for (int32_t i = 0; i < plan->num_ropes * num_new; i++)
    rows[i] = rotary[i / num_new * length + start + i % num_new];
  batch->num_new = &num_new;
  batch->start = &start;
  batch->token_ids = tokens + start;
  batch->rotary = rows;
  batch->logits_tokens = &last;
  int32_t status = decoding_forward(plan, batch);
  require(status == DECODING_OK, decoding_status_message(status));
  free(rows);
  return most_likely(batch->logits, plan->vocab_size, hash);
}

int main(int argc, char **argv) {
  require(argc > 3, "usage: example_forward FILE COUNT TOKEN...");
  FILE *file = fopen(argv[1], "rb");
  require(file != NULL, "the file cannot be read");
  model model;
  read_plan(file, &model);
  fclose(file);

  const decoding_plan *plan = &model.plan;
  const int32_t num_prompt = argc - 3, length = num_prompt + atoi(argv[2]);
  const int32_t num_blocks = (length + DECODING_KV_BLOCK - 1) / DECODING_KV_BLOCK;
  int32_t *tokens = (int32_t *)allocate((size_t)length * sizeof(int32_t));
  int32_t *table = (int32_t *)allocate((size_t)num_blocks * sizeof(int32_t));
  for (int32_t i = 0; i < num_prompt; i++)
    tokens[i] = atoi(argv[3 + i]);
  for (int32_t i = 0; i < num_blocks; i++)
    table[i] = num_blocks - 1 - i; /* any order does */

  decoding_forward_batch batch;
  memset(&batch, 0, sizeof batch);
  batch.struct_size = sizeof batch;
  batch.num_sequences = 1;
  const int32_t *const tables[1] = {table};
  batch.block_tables = tables;
  batch.num_logits = 1;
  batch.logits = (float *)allocate((size_t)plan->vocab_size * sizeof(float));
  batch.logits_stride = plan->vocab_size;
  batch.num_blocks = num_blocks;
  batch.kv_cache = allocate((size_t)num_blocks * decoding_kv_block_size(plan));
  batch.num_workers = 1; /* a host with threads sets parallel_for, host and their number */
  batch.workspace_size = decoding_forward_workspace_size(plan, num_prompt, 1, 1);
  batch.workspace = allocate(batch.workspace_size);

  const float **rotary = make_rotary(&model, length);
  uint64_t hash = UINT64_C(0xCBF29CE484222325);
  for (int32_t start = 0, end = num_prompt; end < length; start = end++) {
    tokens[end] = step(plan, &batch, tokens, start, end, rotary, length, &hash);
    printf("%d ", (int)tokens[end]);
  }
  printf("\n%016" PRIx64 "\n", hash);
  return 0;
}
