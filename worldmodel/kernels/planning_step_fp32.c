/* An imagined step and a head in one call, in fp32 on any processor: a tile of rows goes through all products and the
 * steps between while it is in the cache.
 */
#include <stdlib.h>

#include "products.h"

#define TILE 48

static i64 filled(i64 d) { return (d + WIDE - 1) / WIDE * WIDE; }

/* RMSNorm's factor of a row (m) that is filled up with zeros from d on. */
static inline float factor_of(const float *x, i64 m, i64 d, float eps) {
    float sums[WIDE] = {0}, sum = 0;
    for (i64 j = 0; j < m; j += WIDE)
        SIMD for (int c = 0; c < WIDE; c++) sums[c] += x[j + c] * x[j + c];
    for (int c = 0; c < WIDE; c++) sum += sums[c];
    return 1.0f / sqrtf(sum / d + eps);
}

/* SiLU of the norm of rows (rows, filled d), in place, and to rows that lie `apart` unless there are none. */
static void norm_silu_rows(i64 rows, float *y, i64 d, const float *w, float eps, float *out, i64 apart) {
    i64 m = filled(d);
    for (i64 r = 0; r < rows; r++) {
        float *a = y + r * m, s = factor_of(a, m, d, eps);
        for (i64 j = 0; j < m; j += WIDE)
            SIMD for (int c = 0; c < WIDE; c++) {
                float v = a[j + c] * s * w[j + c];
                a[j + c] = v * sigmoid(v);
            }
        if (out) memcpy(out + r * apart, a, d * sizeof *a);
    }
}

/* The GRU's new state from its gates (rows, 3, filled d) and the old state, both in rows that lie `apart`. */
static void gru_rows(i64 rows, const float *y, i64 d, const float *w, float eps, const float *old, float *new, i64 apart,
                     float *room) {
    i64 m = filled(d);
    memset(room, 0, m * sizeof *room);
    for (i64 r = 0; r < rows; r++) {
        const float *a = y + r * 3 * m;
        float s = factor_of(a, 3 * m, 3 * d, eps);
        memcpy(room, old + r * apart, d * sizeof *room);
        for (i64 j = 0; j < m; j += WIDE)
            SIMD for (int c = 0; c < WIDE; c++) {
                i64 k = j + c;
                float reset = sigmoid(a[k] * s * w[k]);
                float candidate = hyperbolic(reset * a[m + k] * s * w[m + k]);
                float update = sigmoid(a[2 * m + k] * s * w[2 * m + k] - 1.0f);
                room[k] += update * (candidate - room[k]);
            }
        memcpy(new + r * apart, room, d * sizeof *room);
    }
}

static inline float softplus(float x) { /* max(x, 0) + log(1 + e^-|x|), the logarithm as 2 atanh(e / (2 + e)) */
    float e = exponential(-fabsf(x)), s = e / (2.0f + e), q = s * s;
    float p = ((((1.0f / 11 * q + 1.0f / 9) * q + 1.0f / 7) * q + 1.0f / 5) * q + 1.0f / 3) * q + 1.0f;
    return (x > 0.0f ? x : 0.0f) + 2.0f * s * p;
}

/* From states in rows [input | deter | stoch] of `size`, inputs missing, and actions: deter in the next rows, and there
 * either the latent sampled with `noise`, or in `params` the prior's parameters. `no_bias` is as wide as the widest. */
void imagine_step_fp32(float *row, const float *action, float *next, const float *noise, float *params,
                       const float *into_input, const float *input_bias, const float *input_norm, const float *into_gates,
                       const float *gates_bias, const float *gru_norm, const float *to_prior, const float *no_bias,
                       const float *prior_norm, const float *to_params, const float *params_bias, i64 n, i64 size,
                       i64 actions, i64 stoch, i64 hidden, i64 d, i64 count, float eps, float least, int threads) {
    i64 h = filled(hidden), g = 3 * filled(d), p = filled(count), inputs = stoch + actions, most = h > g ? h : g;
    most = most > p ? most : p;
    most = most > inputs ? most : inputs;
#pragma omp parallel num_threads(threads)
    {
        float *y = malloc((2 * TILE + 1) * most * sizeof *y), *x = y + TILE * most, *room = x + TILE * most;
#pragma omp for schedule(static)
        for (i64 i = 0; i < n; i += TILE) {
            i64 rows = n - i < TILE ? n - i : TILE;
            float *here = row + i * size, *there = next + i * size + hidden;
            for (i64 r = 0; r < rows; r++) {
                memcpy(x + r * inputs, here + r * size + hidden + d, stoch * sizeof *x);
                memcpy(x + r * inputs + stoch, action + (i + r) * actions, actions * sizeof *x);
            }
            multiply_blocks(x, inputs, y, rows, inputs, h, into_input, input_bias);
            norm_silu_rows(rows, y, hidden, input_norm, eps, here, size);
            multiply_blocks(here, size, y, rows, hidden + d, g, into_gates, gates_bias);
            gru_rows(rows, y, d, gru_norm, eps, here + hidden, there, size, room);
            multiply_blocks(there, size, y, rows, d, h, to_prior, no_bias);
            norm_silu_rows(rows, y, hidden, prior_norm, eps, NULL, 0);
            multiply_blocks(y, h, x, rows, hidden, p, to_params, params_bias);
            for (i64 r = 0; r < rows; r++) {
                const float *mean = x + r * p;
                if (params) memcpy(params + (i + r) * count, mean, count * sizeof *mean);
                if (!noise) continue;
                const float *drawn = noise + (i + r) * stoch;
                float *to = there + r * size + d;
                SIMD for (i64 j = 0; j < stoch; j++) to[j] = mean[j] + (softplus(mean[stoch + j]) + least) * drawn[j];
            }
        }
        free(y);
    }
}

/* An MLP's outputs (n, outputs) of features x (n, k) in rows that lie `apart`: by weights `few` (outputs, filled units)
 * where outputs are few, or by packed ones. */
void run_mlp_fp32(const float *x, float *out, const float *first, const float *rest, const float *norms, const float *few,
                  const float *last, const float *bias, const float *no_bias, i64 n, i64 apart, i64 k, i64 layers,
                  i64 units, i64 outputs, float eps, int threads) {
    i64 u = filled(units), o = filled(outputs), most = u > o ? u : o;
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(2 * TILE * most * sizeof *room);
#pragma omp for schedule(static)
        for (i64 i = 0; i < n; i += TILE) {
            i64 rows = n - i < TILE ? n - i : TILE;
            float *y = room, *other = room + TILE * most;
            for (i64 l = 0; l < layers; l++) {
                if (l) multiply_blocks(other, u, y, rows, units, u, rest + (l - 1) * u * units, no_bias);
                else multiply_blocks(x + i * apart, apart, y, rows, k, u, first, no_bias);
                norm_silu_rows(rows, y, units, norms + l * u, eps, NULL, 0);
                float *done = y;
                y = other, other = done;
            }
            if (!few) multiply_blocks(other, u, y, rows, units, o, last, bias);
            for (i64 r = 0; r < rows; r++)
                for (i64 j = 0; j < outputs; j++) {
                    float sum = 0;
                    if (few)
                        SUM(sum) for (i64 q = 0; q < u; q++) sum += other[r * u + q] * few[j * u + q];
                    out[(i + r) * outputs + j] = few ? sum + bias[j] : y[r * o + j];
                }
        }
        free(room);
    }
}
