/* The networks of an ensemble's members in fp32, without gradients: a tile of rows goes through all layers while it is
 * in the cache.
 */
#include <stdlib.h>

#include "products.h"

#define TILE 48

static void activate(float *x, i64 count, i64 silu, float slope) {
    if (silu)
        SIMD for (i64 k = 0; k < count; k++) x[k] = x[k] * sigmoid(x[k]);
    else
        SIMD for (i64 k = 0; k < count; k++) x[k] = x[k] < 0.0f ? slope * x[k] : x[k];
}

static const float *multiply_tile(const float *x, float *y, i64 rows, i64 inputs, i64 outputs, const float *weights) {
    const float *bias = weights + inputs * outputs;
    for (i64 block = 0; block < outputs / WIDE; block++)
        multiply_map(x, 0, inputs, y + block * WIDE, 0, outputs, 1, rows, 1, 0, inputs, weights + block * inputs * WIDE,
                     bias + block * WIDE);
    return bias + outputs;
}

static i64 count_weights(i64 inputs, i64 layers, i64 units, i64 outputs) {
    return (inputs + 1) * units + (layers - 1) * (units + 1) * units + (units + 1) * outputs;
}

/* x (count, inputs) through one member's layers to y (count, outputs); `room` holds two tiles of hidden units. */
static void run_tile(const float *x, float *y, float *room, i64 count, const float *weights, i64 inputs, i64 layers,
                     i64 units, i64 outputs, i64 silu, float slope) {
    const float *from = x;
    float *to = room;
    for (i64 layer = 0, wide = inputs; layer < layers; layer++, wide = units) {
        weights = multiply_tile(from, to, count, wide, units, weights);
        activate(to, count * units, silu, slope);
        from = to, to = to == room ? room + TILE * units : room;
    }
    multiply_tile(from, y, count, units, outputs, weights);
}

/* x (members, rows, inputs) through each member's layers to y (members, rows, outputs). `weights` has for each member
 * every layer's blocks and then its bias; units and outputs are multiples of WIDE. */
void run_members(const float *x, const float *weights, float *y, i64 members, i64 rows, i64 inputs, i64 layers,
                 i64 units, i64 outputs, i64 silu, float slope, int threads) {
    i64 size = count_weights(inputs, layers, units, outputs), tiles = (rows + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(2 * TILE * units * sizeof(float));
#pragma omp for schedule(static)
        for (i64 at = 0; at < members * tiles; at++) {
            i64 member = at / tiles, first = at % tiles * TILE;
            i64 count = rows - first < TILE ? rows - first : TILE, row = member * rows + first;
            run_tile(x + row * inputs, y + row * outputs, room, count, weights + member * size, inputs, layers, units,
                     outputs, silu, slope);
        }
        free(room);
    }
}

/* One step of each member's rollouts: vectors x (members, rows, n), actions (members, rows, actions) and, if the
 * prediction has variance, noise like x; to y like x. `scales` (3, n): mean and std of the data, and what a prediction
 * is multiplied by before it is added to the mean, or with `residual` to the vector itself. */
void imagine_members(const float *x, const float *action, const float *noise, const float *weights, const float *scales,
                     float *y, i64 members, i64 rows, i64 n, i64 actions, i64 layers, i64 units, i64 outputs, i64 silu,
                     i64 residual, float slope, float min_log_var, float max_log_var, int threads) {
    i64 inputs = n + actions, size = count_weights(inputs, layers, units, outputs), tiles = (rows + TILE - 1) / TILE;
    const float *mean = scales, *std = scales + n, *scale = scales + 2 * n;
    float least = exponential(min_log_var), most = exponential(max_log_var);
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(TILE * (2 * units + inputs + outputs) * sizeof(float));
        float *in = room + 2 * TILE * units, *out = in + TILE * inputs;
#pragma omp for schedule(static)
        for (i64 at = 0; at < members * tiles; at++) {
            i64 member = at / tiles, first = at % tiles * TILE;
            i64 count = rows - first < TILE ? rows - first : TILE, row = member * rows + first;
            const float *from = x + row * n, *drawn = noise ? noise + row * n : NULL;
            float *to = y + row * n;
            for (i64 r = 0; r < count; r++) {
                for (i64 k = 0; k < n; k++) in[r * inputs + k] = (from[r * n + k] - mean[k]) / std[k];
                memcpy(in + r * inputs + n, action + (row + r) * actions, actions * sizeof(float));
            }
            run_tile(in, out, room, count, weights + member * size, inputs, layers, units, outputs, silu, slope);
            for (i64 r = 0; r < count; r++)
                for (i64 k = 0; k < n; k++) {
                    float next = out[r * outputs + k];
                    /* exp of the log-variance, bounded twice from r: e^min_log_var + e^max_log_var sigmoid(r - max_log_var). */
                    if (drawn)
                        next += drawn[r * n + k] * sqrtf(least + most * sigmoid(out[r * outputs + n + k] - max_log_var));
                    to[r * n + k] = next * scale[k] + (residual ? from[r * n + k] : mean[k]);
                }
        }
        free(room);
    }
}
