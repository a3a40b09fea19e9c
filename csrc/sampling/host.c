/* Helpers for hosts that every one of them would write otherwise: neutral rows, what a row reads, mirostat's bound. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "decoding.h"

void decoding_row_init(decoding_row *row) {
  memset(row, 0, sizeof *row);
  row->struct_size = sizeof *row;
  row->temperature = row->top_p = row->typical_p = row->top_h = row->tfs = row->repetition_penalty = 1.0f;
  row->dynatemp_exponent = row->smoothing_curve = row->dry_base = 1.0f;
  row->top_k = DECODING_TOP_K_OFF;
  row->top_n_sigma = row->min_k = INFINITY;
  row->dry_allowed_length = 1;
  row->dry_range = DECODING_DRY_RANGE_ALL;
}

int32_t decoding_row_reads(const decoding_row *row) {
  bool counts = row->repetition_penalty != 1.0f || row->frequency_penalty != 0.0f || row->presence_penalty != 0.0f ||
                row->context_frequency_penalty != 0.0f;
  bool context = row->dry_multiplier != 0.0f || row->no_repeat_ngram_size != 0 || row->bad_words.num_sequences != 0;
  return (counts ? DECODING_READS_COUNTS : 0) | (context ? DECODING_READS_CONTEXT : 0);
}

double decoding_mirostat_next(double mu, float tau, float eta, float surprise) {
  return mu - (double)eta * ((double)surprise - (double)tau);
}
