/* Pictures on their way into the encoder, through the decoder and into its loss, each in one pass over memory. */
#include "common.h"

/* Pixels x (n, d) against a backdrop of d values, to numbers around zero. */
void centre_image(const uint8_t *x, const float *backdrop, bf16 *y, i64 n, i64 d, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        SIMD for (i64 j = 0; j < d; j++) y[i * d + j] = rounded((x[i * d + j] - backdrop[j]) * (1.0f / 255));
    }
}

/* Half the squared distance y (n) of decoded pictures `mean` (n, d) from centred pixels x, and the differences. */
void picture_error(const bf16 *mean, const uint8_t *x, const float *backdrop, bf16 *gap, float *y, i64 n, i64 d,
                   int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        float sum = 0;
        SUM(sum) for (i64 j = 0; j < d; j++) {
            float g = f(mean[i * d + j]) - (x[i * d + j] - backdrop[j]) * (1.0f / 255);
            gap[i * d + j] = rounded(g);
            sum += g * g;
        }
        y[i] = 0.5f * sum;
    }
}

void picture_error_back(const float *gy, const bf16 *gap, bf16 *gmean, i64 n, i64 d, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        SIMD for (i64 j = 0; j < d; j++) gmean[i * d + j] = rounded(gy[i] * f(gap[i * d + j]));
    }
}

/* Rows of a map (2w, c) lie in `phases` (w+1, 2, 2, c) as runs of two columns, shifted by one: the border is cut off.
 * c is a constant where this is inlined, or copying runs of a few numbers would cost more than anything else here. */
static inline void runs(const bf16 *from, bf16 *to, i64 from_step, i64 to_step, i64 count, i64 c) {
    for (i64 i = 0; i < count; i++)
        for (i64 k = 0; k < 2 * c; k++) to[i * to_step + k] = from[i * from_step + k];
}

static inline void copy_runs(const bf16 *from, bf16 *to, i64 from_step, i64 to_step, i64 count, i64 c) {
    switch (c) {
    case 1: runs(from, to, from_step, to_step, count, 1); break;
    case 3: runs(from, to, from_step, to_step, count, 3); break;
    case 8: runs(from, to, from_step, to_step, count, 8); break;
    case 16: runs(from, to, from_step, to_step, count, 16); break;
    case 32: runs(from, to, from_step, to_step, count, 32); break;
    default: runs(from, to, from_step, to_step, count, c);
    }
}

/* Interleave the four phases of x (n, h+1, w+1, 2, 2, c) to a map (n, 2h, 2w, c), its border cut off; then SiLU. */
void interleave_phases(const bf16 *x, bf16 *y, i64 n, i64 h, i64 w, i64 c, i64 silu, int threads) {
    ROWS for (i64 row = 0; row < n * 2 * h; row++) {
        i64 up = row % (2 * h) + 1, size = 2 * w * c;
        const bf16 *from = x + ((row / (2 * h) * (h + 1) + up / 2) * (w + 1) * 2 + up % 2) * 2 * c;
        bf16 *to = y + row * size;
        memcpy(to, from + c, c * sizeof(bf16));
        copy_runs(from + 4 * c, to + c, 4 * c, 2 * c, w - 1, c);
        memcpy(to + size - c, from + 4 * w * c, c * sizeof(bf16));
        if (!silu) continue;
        SIMD for (i64 k = 0; k < size; k++) to[k] = rounded(f(to[k]) * sigmoid(f(to[k])));
    }
}

void interleave_phases_back(const bf16 *gy, const bf16 *x, bf16 *gx, i64 n, i64 h, i64 w, i64 c, i64 silu, int threads) {
    ROWS for (i64 row = 0; row < n * (h + 1); row++) {
        i64 size = 4 * (w + 1) * c;
        const bf16 *a = x + row * size;
        bf16 *to = gx + row * size;
        memset(to, 0, size * sizeof(bf16));
        for (i64 half = 0; half < 2; half++) {
            i64 up = row % (h + 1) * 2 + half - 1;
            if (up < 0 || up >= 2 * h) continue;
            const bf16 *g = gy + (row / (h + 1) * 2 * h + up) * 2 * w * c;
            bf16 *o = to + half * 2 * c;
            memcpy(o + c, g, c * sizeof(bf16));
            copy_runs(g + c, o + 4 * c, 2 * c, 4 * c, w - 1, c);
            memcpy(o + 4 * w * c, g + (2 * w - 1) * c, c * sizeof(bf16));
        }
        if (!silu) continue;
        SIMD for (i64 k = 0; k < size; k++) {
            float v = f(a[k]), p = sigmoid(v);
            to[k] = rounded(f(to[k]) * p * (1.0f + v * (1.0f - p)));
        }
    }
}
