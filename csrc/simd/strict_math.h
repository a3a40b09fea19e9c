/* Internal: refuse to compile where the compiler may change bits. CMake sets the right options; builds by hand get
 * theirs from docs/embedding.md. What no macro tells, such as -ffp-contract=fast, decoding_self_test finds. */
#ifndef DK_STRICT_MATH_H
#define DK_STRICT_MATH_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0) ||                           \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(_M_FP_FAST)
#error "decoding: compile without -Ofast and -ffast-math (-O3 -ffp-contract=off is right): they change results"
#endif

#endif
