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

/* x (members, rows, inputs) through each member's layers to y (members, rows, outputs). `weights` has for each member
 * every layer's blocks and then its bias; units and outputs are multiples of WIDE. */
void run_members(const float *x, const float *weights, float *y, i64 members, i64 rows, i64 inputs, i64 layers,
                 i64 units, i64 outputs, i64 silu, float slope, int threads) {
    i64 size = (inputs + 1) * units + (layers - 1) * (units + 1) * units + (units + 1) * outputs;
    i64 tiles = (rows + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
    {
        float *room = malloc(2 * TILE * units * sizeof(float));
#pragma omp for schedule(static)
        for (i64 at = 0; at < members * tiles; at++) {
            i64 member = at / tiles, first = at % tiles * TILE;
            i64 count = rows - first < TILE ? rows - first : TILE;
            const float *from = x + (member * rows + first) * inputs, *part = weights + member * size;
            float *to = room;
            for (i64 layer = 0, wide = inputs; layer < layers; layer++, wide = units) {
                part = multiply_tile(from, to, count, wide, units, part);
                activate(to, count * units, silu, slope);
                from = to, to = to == room ? room + TILE * units : room;
            }
            multiply_tile(from, y + (member * rows + first) * outputs, count, units, outputs, part);
        }
        free(room);
    }
}
