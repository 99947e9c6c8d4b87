/* Matrix products in fp32 whose results go on in the cache. Weights come in blocks of WIDE outputs:
 * (outputs / WIDE, inputs, WIDE).
 */
#include "common.h"

#define WIDE 16
#define HALF 8
#define HIGH 6 /* positions that are multiplied at once: their sums fill the registers */

typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));

/* y (count, WIDE): the bias, plus x (count, inputs) times w for each of some runs of inputs, `next` apart. */
static inline __attribute__((always_inline)) void multiply(const float *const *x, float *const *y, i64 runs, i64 next,
                                                           i64 inputs, const float *w, const float *bias, int count) {
    v8 sum[HIGH][2];
    for (int m = 0; m < count; m++) {
        sum[m][0] = *(const v8 *)bias;
        sum[m][1] = *(const v8 *)(bias + HALF);
    }
    for (i64 run = 0; run < runs; run++)
        for (i64 k = run * next; k < run * next + inputs; k++, w += WIDE) {
            v8 left = *(const v8 *)w, right = *(const v8 *)(w + HALF);
            for (int m = 0; m < count; m++) {
                float one = x[m][k];
                v8 all = {one, one, one, one, one, one, one, one};
                sum[m][0] += all * left;
                sum[m][1] += all * right;
            }
        }
    for (int m = 0; m < count; m++) {
        *(v8 *)y[m] = sum[m][0];
        *(v8 *)(y[m] + HALF) = sum[m][1];
    }
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
