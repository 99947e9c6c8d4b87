/* Pictures on their way into the encoder, through the decoder and into its loss, each in one pass over memory. */
#include "common.h"

/* Pixels x (n, d) against a backdrop of d values, to numbers around zero. */
void NAMED(centre_image)(const uint8_t *x, const float *backdrop, real *y, i64 n, i64 d, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        SIMD for (i64 j = 0; j < d; j++) y[i * d + j] = narrow((x[i * d + j] - backdrop[j]) * (1.0f / 255));
    }
}

/* Half the squared distance y (n) of decoded pictures `mean` (n, d) from centred pixels x, and the differences. */
void NAMED(picture_error)(const real *mean, const uint8_t *x, const float *backdrop, real *gap, float *y, i64 n, i64 d,
                   int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        float sum = 0;
        SUM(sum) for (i64 j = 0; j < d; j++) {
            float g = wide(mean[i * d + j]) - (x[i * d + j] - backdrop[j]) * (1.0f / 255);
            gap[i * d + j] = narrow(g);
            sum += g * g;
        }
        y[i] = 0.5f * sum;
    }
}

void NAMED(picture_error_back)(const float *gy, const real *gap, real *gmean, i64 n, i64 d, int threads) {
    ROWS for (i64 i = 0; i < n; i++) {
        SIMD for (i64 j = 0; j < d; j++) gmean[i * d + j] = narrow(gy[i] * wide(gap[i * d + j]));
    }
}

/* Rows of a map (2w, c) lie in `phases` (w+1, 2, 2, c) as runs of two columns, shifted by one: the border is cut off.
 * c is a constant where this is inlined, or copying runs of a few numbers would cost more than anything else here. */
static inline void runs(const real *from, real *to, i64 from_step, i64 to_step, i64 count, i64 c) {
    for (i64 i = 0; i < count; i++)
        for (i64 k = 0; k < 2 * c; k++) to[i * to_step + k] = from[i * from_step + k];
}

static inline void copy_runs(const real *from, real *to, i64 from_step, i64 to_step, i64 count, i64 c) {
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
void NAMED(interleave_phases)(const real *x, real *y, i64 n, i64 h, i64 w, i64 c, i64 silu, int threads) {
    ROWS for (i64 row = 0; row < n * 2 * h; row++) {
        i64 up = row % (2 * h) + 1, size = 2 * w * c;
        const real *from = x + ((row / (2 * h) * (h + 1) + up / 2) * (w + 1) * 2 + up % 2) * 2 * c;
        real *to = y + row * size;
        memcpy(to, from + c, c * sizeof(real));
        copy_runs(from + 4 * c, to + c, 4 * c, 2 * c, w - 1, c);
        memcpy(to + size - c, from + 4 * w * c, c * sizeof(real));
        if (!silu) continue;
        SIMD for (i64 k = 0; k < size; k++) to[k] = narrow(wide(to[k]) * sigmoid(wide(to[k])));
    }
}

void NAMED(interleave_phases_back)(const real *gy, const real *x, real *gx, i64 n, i64 h, i64 w, i64 c, i64 silu,
                                   int threads) {
    ROWS for (i64 row = 0; row < n * (h + 1); row++) {
        i64 size = 4 * (w + 1) * c;
        const real *a = x + row * size;
        real *to = gx + row * size;
        memset(to, 0, size * sizeof(real));
        for (i64 half = 0; half < 2; half++) {
            i64 up = row % (h + 1) * 2 + half - 1;
            if (up < 0 || up >= 2 * h) continue;
            const real *g = gy + (row / (h + 1) * 2 * h + up) * 2 * w * c;
            real *o = to + half * 2 * c;
            memcpy(o + c, g, c * sizeof(real));
            copy_runs(g + c, o + 4 * c, 2 * c, 4 * c, w - 1, c);
            memcpy(o + 4 * w * c, g + (2 * w - 1) * c, c * sizeof(real));
        }
        if (!silu) continue;
        SIMD for (i64 k = 0; k < size; k++) {
            float v = wide(a[k]), p = sigmoid(v);
            to[k] = narrow(wide(to[k]) * p * (1.0f + v * (1.0f - p)));
        }
    }
}
