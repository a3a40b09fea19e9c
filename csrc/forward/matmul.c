#include "forward/matmul.h"

#include <stdbool.h>

#include "forward/pack.h"
#include "forward/quantised.h"

#define TASKS_PER_WORKER 8

typedef enum { PLAIN, UP, HEAD } job_kind;

/* One matmul. Panels [first_panel, end_panel) in chunks, tokens in blocks of whole tiles. */
typedef struct matmul_job {
  const dk_pass *pass;
  const decoding_matrix *matrix;
  job_kind kind;
  int32_t num_rows;
  int32_t first_panel;
  int32_t end_panel;
  int32_t chunk; /* panels per task */
  int32_t num_chunks;
  int32_t block; /* tokens per task */
  float *y;
  int64_t y_stride;
} matmul_job;

typedef struct span {
  int32_t begin;
  int32_t end;
} span;

static int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t divided_up(int32_t a, int32_t b) { return (int32_t)(((int64_t)a + b - 1) / b); }

static void multiply_quantised(const matmul_job *job, span panels, span rows, float *y, int64_t y_stride) {
  const decoding_matrix *matrix = job->matrix;
  const size_t panel_bytes = dk_packed_panel_bytes(matrix->type, matrix->num_inputs);
  const dk_input_group *inputs = (const dk_input_group *)(const void *)job->pass->input;
  dk_quantised_product product = {.type = matrix->type,
                                  .num_inputs = matrix->num_inputs,
                                  .num_rows = rows.end - rows.begin,
                                  .num_panels = panels.end - panels.begin,
                                  .inputs = inputs + (size_t)rows.begin * (size_t)(matrix->num_inputs / DK_GROUP),
                                  .panels = (const uint8_t *)matrix->panels + (size_t)panels.begin * panel_bytes,
                                  .y = y,
                                  .y_stride = y_stride};
  job->pass->quantised->multiply(&product);
}

static void multiply_floats(const matmul_job *job, span panels, span rows, float *y, int64_t y_stride) {
  const decoding_matrix *matrix = job->matrix;
  const size_t panel_bytes = dk_packed_panel_bytes(matrix->type, matrix->num_inputs);
  dk_product product = {.num_tokens = rows.end - rows.begin,
                        .num_inputs = matrix->num_inputs,
                        .num_panels = panels.end - panels.begin,
                        .x = job->pass->input + (size_t)rows.begin * (size_t)matrix->num_inputs,
                        .panels = (const char *)matrix->panels + (size_t)panels.begin * panel_bytes,
                        .y = y,
                        .y_stride = y_stride};
  if (matrix->type == DECODING_BFLOAT16_CODED)
    job->pass->kernel->multiply_coded(&product);
  else
    job->pass->kernel->multiply[matrix->type](&product);
}

/* Panels of a matrix times the tokens of a block, with the bias. */
static void multiply(const matmul_job *job, span panels, span rows, float *y, int64_t y_stride) {
  const decoding_matrix *matrix = job->matrix;
  const int32_t first_output = panels.begin * DK_PANEL;
  if (dk_format_of(matrix->type) != NULL)
    multiply_quantised(job, panels, rows, y, y_stride);
  else
    multiply_floats(job, panels, rows, y, y_stride);
  if (matrix->bias != NULL)
    job->pass->kernel->add_bias(y, y_stride, rows.end - rows.begin, matrix->bias + first_output,
                                smaller(matrix->num_outputs - first_output, (panels.end - panels.begin) * DK_PANEL));
}

static void multiply_in_place(const matmul_job *job, span panels, span rows) {
  multiply(job, panels, rows, job->y + rows.begin * job->y_stride + panels.begin * DK_PANEL, job->y_stride);
}

/* Gate and up, then the activation while both are in the cache. */
static void multiply_gated(const matmul_job *job, span panels, span rows) {
  const decoding_plan *plan = job->pass->plan;
  const int32_t inner = plan->intermediate_size, first = panels.begin * DK_PANEL;
  const int32_t shift = plan->gated ? inner / DK_PANEL : 0, count = smaller(panels.end * DK_PANEL, inner) - first;
  multiply_in_place(job, panels, rows);
  if (plan->gated)
    multiply_in_place(job, (span){panels.begin + shift, panels.end + shift}, rows);
  for (int32_t row = rows.begin; row < rows.end; row++) {
    float *x = job->y + row * job->y_stride + first;
    job->pass->kernel->activate(plan->activation, x, plan->gated ? x + inner : NULL, count);
  }
}

/* A few panels at a time, because the caller's rows have no room for whole panels. */
static void multiply_logits(const matmul_job *job, span panels, span rows, float *scratch) {
  const decoding_plan *plan = job->pass->plan;
  const decoding_forward_batch *batch = job->pass->batch;
  const int64_t stride = DK_LOGITS_PANELS * DK_PANEL;
  for (int32_t panel = panels.begin; panel < panels.end; panel += DK_LOGITS_PANELS) {
    span some = {panel, smaller(panel + DK_LOGITS_PANELS, panels.end)};
    int32_t first = panel * DK_PANEL, count = smaller(plan->vocab_size, some.end * DK_PANEL) - first;
    multiply(job, some, rows, scratch, stride);
    for (int32_t row = rows.begin; row < rows.end; row++)
      job->pass->kernel->finish_logits(scratch + (row - rows.begin) * stride, plan->logits_scale, plan->logits_cap,
                                       count, batch->logits + row * batch->logits_stride + first);
  }
}

static void multiply_task(void *argument, int32_t index, int32_t worker) {
  const matmul_job *job = argument;
  int32_t chunk = index % job->num_chunks, block = index / job->num_chunks;
  int32_t first_panel = job->first_panel + chunk * job->chunk, first_row = block * job->block;
  span panels = {first_panel, smaller(first_panel + job->chunk, job->end_panel)};
  span rows = {first_row, smaller(first_row + job->block, job->num_rows)};
  if (job->kind == UP)
    multiply_gated(job, panels, rows);
  else if (job->kind == HEAD)
    multiply_logits(job, panels, rows, dk_worker_scratch(job->pass, worker));
  else
    multiply_in_place(job, panels, rows);
}

/* More tasks than workers, so that one that is late holds up little; but whole groups of panels if there are many. Of
 * the sizes down to half of that, the largest with which the worker that has most to do has least. */
static int32_t panels_per_task(const dk_pass *pass, int32_t num_panels, int32_t num_blocks) {
  const int32_t workers = pass->batch->num_workers, wide = pass->kernel->panels;
  const int32_t aim = divided_up(num_panels, divided_up(TASKS_PER_WORKER * workers, num_blocks));
  const int32_t most = divided_up(aim, wide) * wide;
  int64_t least = INT64_MAX;
  int32_t best = most;
  for (int32_t chunk = most; chunk > 0 && 2 * chunk >= aim; chunk -= chunk > wide ? wide : 1) {
    int64_t tasks = (int64_t)divided_up(num_panels, chunk) * num_blocks;
    int64_t panels_of_one = (tasks + workers - 1) / workers * chunk;
    if (panels_of_one < least) {
      least = panels_of_one;
      best = chunk;
    }
  }
  return best;
}

/* As few blocks as hold all rows, of about equal size: a small one would have to wait for weights from memory. */
static int32_t tokens_per_task(const matmul_job *job) {
  const bool is_quantised = dk_format_of(job->matrix->type) != NULL;
  int32_t block = is_quantised ? DK_QUANTISED_BLOCK : DK_TOKEN_BLOCK;
  int32_t tile = is_quantised ? DK_QUANTISED_TILE : job->pass->kernel->tile;
  return divided_up(divided_up(job->num_rows, tile), divided_up(job->num_rows, block)) * tile;
}

static void run(matmul_job *job) {
  const dk_pass *pass = job->pass;
  job->block = tokens_per_task(job);
  int32_t num_blocks = divided_up(job->num_rows, job->block), num_panels = job->end_panel - job->first_panel;
  job->chunk = panels_per_task(pass, num_panels, num_blocks);
  job->num_chunks = divided_up(num_panels, job->chunk);
  dk_run_tasks(pass, job->num_chunks * num_blocks, multiply_task, job);
}

static void multiply_outputs(const dk_pass *pass, const decoding_matrix *matrix, int32_t num_rows, span outputs,
                             float *y, int64_t y_stride) {
  matmul_job job = {.pass = pass,
                    .matrix = matrix,
                    .kind = PLAIN,
                    .num_rows = num_rows,
                    .first_panel = outputs.begin / DK_PANEL,
                    .end_panel = dk_num_panels(outputs.end),
                    .y = y,
                    .y_stride = y_stride};
  run(&job);
}

void dk_multiply(const dk_pass *pass, const decoding_matrix *matrix, int32_t num_rows, int32_t first_output,
                 int32_t end_output, float *y, int64_t y_stride) {
  for (; matrix != NULL && end_output > 0; matrix = matrix->rest) {
    span outputs = {first_output > 0 ? first_output : 0, smaller(end_output, matrix->num_outputs)};
    if (outputs.begin < outputs.end)
      multiply_outputs(pass, matrix, num_rows, outputs, y, y_stride);
    first_output -= matrix->num_outputs;
    end_output -= matrix->num_outputs;
    y += matrix->num_outputs;
  }
}

static void activate_row(void *argument, int32_t row, int32_t worker) {
  const dk_pass *pass = argument;
  const decoding_plan *plan = pass->plan;
  float *x = pass->buffers.wide + row * pass->buffers.wide_stride;
  (void)worker;
  pass->kernel->activate(plan->activation, x, plan->gated ? x + plan->intermediate_size : NULL,
                         plan->intermediate_size);
}

/* With the activation at once; after all products where gate and up have types of their own or share a panel. */
void dk_multiply_up(const dk_pass *pass, const decoding_matrix *up, int32_t num_rows) {
  const decoding_plan *plan = pass->plan;
  float *y = pass->buffers.wide;
  const int64_t stride = pass->buffers.wide_stride;
  if (plan->gated && (up->rest != NULL || plan->intermediate_size % DK_PANEL != 0)) {
    dk_multiply(pass, up, num_rows, 0, 2 * plan->intermediate_size, y, stride);
    dk_run_tasks(pass, num_rows, activate_row, (void *)(uintptr_t)pass);
    return;
  }
  matmul_job job = {.pass = pass,
                    .matrix = up,
                    .kind = UP,
                    .num_rows = num_rows,
                    .end_panel = dk_num_panels(plan->intermediate_size),
                    .y = y,
                    .y_stride = stride};
  run(&job);
}

void dk_multiply_head(const dk_pass *pass, int32_t num_rows) {
  matmul_job job = {.pass = pass,
                    .matrix = &pass->plan->head,
                    .kind = HEAD,
                    .num_rows = num_rows,
                    .end_panel = dk_num_panels(pass->plan->vocab_size)};
  run(&job);
}
