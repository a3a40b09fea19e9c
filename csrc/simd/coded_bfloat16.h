/* bfloat16 weights in 12 bits each, without loss.
 *
 * The upper byte of a bfloat16 is the sign and seven bits of the exponent. The weights of a panel of 16 outputs have
 * about as many different ones as four bits can number, because trained weights span few powers of two. So a panel
 * stores the lower byte of each weight, the number of its upper byte in a table of 16, and a list of exceptions: the
 * few weights whose upper byte is not in the table.
 *
 *   table           16 upper bytes
 *   exceptions      uint32: (16 * input + output) << 8 | upper byte, ascending, the rest DK_NO_EXCEPTION; up to a
 *                   multiple of 32 bytes
 *   groups          4 inputs each: 64 lower bytes, inputs 0 and 1, then 2 and 3; and 32 bytes of numbers, of inputs 0
 *                   and 1 in the low nibbles, of 2 and 3 in the high ones
 *
 * The 32 bytes of two inputs are in the order in which instructions that interleave bytes of 128-bit registers give
 * 16 outputs in order: dk_coded_position. */
#ifndef DK_CODED_BFLOAT16_H
#define DK_CODED_BFLOAT16_H

#include <stdint.h>

#define DK_CODED_GROUP 4 /* inputs */
#define DK_CODED_GROUP_BYTES 96
#define DK_CODED_NUMBERS 64 /* offset of the numbers in a group */
#define DK_CODED_TABLE 16   /* bytes of the table, which the exceptions follow */
#define DK_NO_EXCEPTION UINT32_MAX

/* Offset of an output's byte in the 32 bytes of two inputs; input is 0 or 1. */
static inline int32_t dk_coded_position(int32_t output, int32_t input) {
  return output / 4 % 2 * 16 + output / 8 * 8 + output % 4 * 2 + input;
}

#endif
