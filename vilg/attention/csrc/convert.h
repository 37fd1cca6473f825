/* Conversion between float32 and the 16-bit types, and small computations with them: the C interface of the CPU
   kernels.

   `narrow` rounds to the nearest value, ties to even. What is too small for a normal value of fp16 becomes a subnormal
   one, what is too large becomes infinite, and NaN stays NaN. `widen` is exact. */
#pragma once
#include <stdint.h>

#include "element.h"

#ifdef __cplusplus
extern "C" {
#endif

/* type: VILG_FLOAT16 or VILG_BFLOAT16 */
void vilg_widen(int type, int64_t count, const uint16_t* from, float* to, int threads);
void vilg_narrow(int type, int64_t count, const float* from, uint16_t* to, int threads);

/* Sums and products of 16-bit elements, computed in float32 and rounded once, in the calling thread */
void vilg_add(int type, int64_t count, const uint16_t* x, const uint16_t* y, uint16_t* out);
void vilg_multiply(int type, int64_t count, const uint16_t* x, const uint16_t* y, uint16_t* out);

/* Products with a vector, with sums in float32, in the calling thread. matrix: [rows, width].
   vilg_times_vector: out[rows] = matrix vector[width]. vilg_vector_times: out[width] = vector[rows] matrix. Nothing may
   overlap; `scratch` has rows + width floats. */
void vilg_times_vector(int type, int64_t rows, int64_t width, const uint16_t* matrix, const uint16_t* vector,
                       uint16_t* out, float* scratch);
void vilg_vector_times(int type, int64_t rows, int64_t width, const uint16_t* matrix, const uint16_t* vector,
                       uint16_t* out, float* scratch);

#ifdef __cplusplus
}
#endif
