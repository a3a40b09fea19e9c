/* The forward pass's functions once, in terms of lanes.h. Each kernels_<set>.c sets the instruction set, its name and
 * the name of its table, and includes this file. */
#include "forward/attention_body.h"
#include "forward/coded_body.h"
#include "forward/kernels.h"
#include "forward/matmul_body.h"
#include "forward/rows_body.h"

const dk_forward_kernel DK_TABLE = {
    .name = DK_NAME,
    .tile = DK_TILE,
    .panels = DK_WIDE(1),
    .prepare = prepare,
    .multiply = {multiply_f32, multiply_f16, multiply_bf16},
    .multiply_coded = multiply_coded,
    .add_bias = add_bias,
    .attend = attend,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rotate = rotate,
    .activate = activate,
    .add_scaled = add_scaled,
    .embed = embed,
    .finish_logits = finish_logits,
};
