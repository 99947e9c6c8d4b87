/* Matrix products in fp32 whose results go on in the cache. Weights come in blocks of WIDE outputs:
 * (outputs / WIDE, inputs, WIDE).
 */
#pragma once
#include "common.h"

#define WIDE 16
/* HIGH positions are multiplied at once: their sums fill the registers. */
#ifdef __AVX512F__
#define HIGH 12
#define PART 16
typedef float part __attribute__((vector_size(64), aligned(4), may_alias));
#else
#define HIGH 6
#define PART 8
typedef float part __attribute__((vector_size(32), aligned(4), may_alias));
#endif
#define PARTS (WIDE / PART)

/* y (count, WIDE): the bias, plus x (count, inputs) times w for each of some runs of inputs, `next` apart. */
static inline __attribute__((always_inline)) void multiply(const float *const *x, float *const *y, i64 runs, i64 next,
                                                           i64 inputs, const float *w, const float *bias, int count) {
    part sum[HIGH][PARTS];
    for (int m = 0; m < count; m++)
        for (int c = 0; c < PARTS; c++) sum[m][c] = *(const part *)(bias + c * PART);
    for (i64 run = 0; run < runs; run++)
        for (i64 k = run * next; k < run * next + inputs; k++, w += WIDE)
            for (int m = 0; m < count; m++)
                for (int c = 0; c < PARTS; c++) sum[m][c] += x[m][k] * *(const part *)(w + c * PART);
    for (int m = 0; m < count; m++)
        for (int c = 0; c < PARTS; c++) *(part *)(y[m] + c * PART) = sum[m][c];
}

/* y (rows, WIDE): the bias, plus x (rows, inputs) times w; rows are so far apart. */
static inline void multiply_rows(const float *x, i64 x_apart, float *y, i64 y_apart, i64 rows, i64 inputs, const float *w,
                                 const float *bias) {
    i64 at = 0;
#define NEXT(count)                                                                                                      \
    for (; at + count <= rows; at += count) {                                                                            \
        const float *from[count];                                                                                        \
        float *to[count];                                                                                                \
        for (int m = 0; m < count; m++) from[m] = x + (at + m) * x_apart, to[m] = y + (at + m) * y_apart;                \
        multiply(from, to, 1, 0, inputs, w, bias, count);                                                                \
    }
    NEXT(HIGH)
    NEXT(4)
    NEXT(2)
    NEXT(1)
#undef NEXT
}

/* y (rows, outputs) in whole blocks: the bias plus x (rows, inputs), rows `apart`, times a matrix. */
static inline void multiply_blocks(const float *x, i64 apart, float *y, i64 rows, i64 inputs, i64 outputs, const float *weights,
                            const float *bias) {
    for (i64 block = 0; block < outputs; block += WIDE, weights += inputs * WIDE)
        multiply_rows(x, apart, y + block, outputs, rows, inputs, weights, bias + block);
}

/* The same for positions (h, w), whose inputs and outputs lie a row or a step apart. */
static void multiply_map(const float *x, i64 x_row, i64 x_step, float *y, i64 y_row, i64 y_step, i64 h, i64 w,
                         i64 runs, i64 next, i64 inputs, const float *weights, const float *bias) {
    for (i64 at = 0, count; at < h * w; at += count) {
        const float *from[HIGH];
        float *to[HIGH];
        i64 rest = h * w - at;
        count = rest >= HIGH ? HIGH : rest >= 4 ? 4 : rest >= 2 ? 2 : 1;
        for (i64 m = 0; m < count; m++) {
            from[m] = x + (at + m) / w * x_row + (at + m) % w * x_step;
            to[m] = y + (at + m) / w * y_row + (at + m) % w * y_step;
        }
        switch (count) { /* constants, so that the sums stay in registers */
        case HIGH: multiply(from, to, runs, next, inputs, weights, bias, HIGH); break;
        case 4: multiply(from, to, runs, next, inputs, weights, bias, 4); break;
        case 2: multiply(from, to, runs, next, inputs, weights, bias, 2); break;
        default: multiply(from, to, runs, next, inputs, weights, bias, 1);
        }
    }
}
