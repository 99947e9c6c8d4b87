/* The picture decoder after its first linear layer, in fp32 without gradients: one picture after the other, so that
 * every map stays in the cache from its product to its last use, and borders that are cut off are not computed.
 *
 * Maps (h+2, w+2, c) have a border of zeros. Weights come in blocks of WIDE outputs: (outputs / WIDE, inputs, WIDE).
 */
#include <stdlib.h>

#include "products.h"

/* x (h+2, w+2, c) to SiLU of twice its size, y (2h+2, 2w+2, outputs): see Upsample. Each phase of a pixel has its own
 * weights (4, outputs / WIDE, 2, 2c, WIDE). */
static void upsample(const float *x, float *y, const float *weights, const float *bias, i64 h, i64 w, i64 c,
                     i64 outputs) {
    i64 row = (2 * w + 2) * outputs;
    memset(y, 0, row * sizeof(float));
    memset(y + (2 * h + 1) * row, 0, row * sizeof(float));
    for (int phase = 0; phase < 4; phase++) {
        int down = phase / 2 == 0, right = phase % 2 == 0; /* the first phase is the lower right pixel of four */
        for (i64 block = 0; block < outputs / WIDE; block++, weights += 4 * c * WIDE, bias += WIDE)
            multiply_map(x + (down * (w + 2) + right) * c, (w + 2) * c, c,
                         y + (down + 1) * row + (right + 1) * outputs + block * WIDE, 2 * row, 2 * outputs, h, w, 2,
                         (w + 2) * c, 2 * c, weights, bias);
    }
    for (i64 i = 1; i <= 2 * h; i++) {
        float *to = y + i * row;
        memset(to, 0, outputs * sizeof(float));
        memset(to + row - outputs, 0, outputs * sizeof(float));
        SIMD for (i64 k = outputs; k < row - outputs; k++) to[k] = to[k] * sigmoid(to[k]);
    }
}

static inline void copy_patches(const float *from, float *to, i64 count, i64 from_step, i64 size) {
    for (i64 j = 0; j < count; j++)
        for (i64 k = 0; k < size; k++) to[j * size + k] = from[j * from_step + k];
}

/* x (h+2, w+2, c), whose positions become patches, plus a mean picture, to pixels (h*patch, w*patch, colours). */
static void unpatch(const float *x, uint8_t *y, const float *weights, const float *bias, const float *mean, i64 h,
                    i64 w, i64 c, i64 patch, i64 colours, float *row, float *line) {
    i64 run = patch * colours, outputs = patch * run;
    for (i64 i = 0; i < h; i++) {
        for (i64 block = 0; block < outputs / WIDE; block++)
            multiply_map(x + ((i + 1) * (w + 2) + 1) * c, 0, c, row + block * WIDE, 0, outputs, 1, w, 1, 0, c,
                         weights + block * c * WIDE, bias + block * WIDE);
        for (i64 up = 0; up < patch; up++, y += w * run, mean += w * run) {
            if (run == 12) /* a constant: runs of a few numbers cost more to copy otherwise */
                copy_patches(row + up * 12, line, w, outputs, 12);
            else
                copy_patches(row + up * run, line, w, outputs, run);
            SIMD for (i64 k = 0; k < w * run; k++) {
                float value = line[k] + mean[k];
                value = value < 0.0f ? 0.0f : value;
                value = value > 1.0f ? 1.0f : value;
                y[k] = (uint8_t)(int32_t)rintf(value * 255.0f);
            }
        }
    }
}

/* Pixels y of n pictures from the maps x (n, h, w, c) that the linear layer gives. `sizes` holds the channels after
 * each of `layers` doublings; `weights` has each one's, then its bias, then the patches'. */
void decode_pictures(const float *x, const float *weights, const i64 *sizes, const float *mean, uint8_t *y, i64 n,
                     i64 h, i64 w, i64 c, i64 layers, i64 patch, i64 colours, i64 most, int threads) {
    i64 pixels = (h << layers) * (w << layers) * patch * patch * colours, line = (w << layers) * patch * colours;
#pragma omp parallel num_threads(threads)
    {
        float *one = malloc((2 * most + (patch + 1) * line) * sizeof(float));
#pragma omp for schedule(static)
        for (i64 i = 0; i < n; i++) {
            float *from = one, *to = one + most;
            const float *part = weights;
            memset(from, 0, (h + 2) * (w + 2) * c * sizeof(float));
            for (i64 k = 0; k < h; k++)
                memcpy(from + ((k + 1) * (w + 2) + 1) * c, x + (i * h + k) * w * c, w * c * sizeof(float));
            i64 inputs = c;
            for (i64 layer = 0; layer < layers; layer++) {
                i64 outputs = sizes[layer], count = 16 * inputs * outputs;
                upsample(from, to, part, part + count, h << layer, w << layer, inputs, outputs);
                float *swap = from;
                from = to, to = swap, part += count + 4 * outputs, inputs = outputs;
            }
            unpatch(from, y + i * pixels, part, part + inputs * patch * patch * colours, mean, h << layers,
                    w << layers, inputs, patch, colours, one + 2 * most, one + 2 * most + patch * line);
        }
        free(one);
    }
}
