/* A function of the oneDNN library in Paddle's wheel, which has no header for it. */
#pragma once
#include <stdint.h>

extern "C" {
/* C = alpha A B + beta C for row-major matrices of bfloat16, with C and sums in float32. Returns 0 for success.
   https://oneapi-src.github.io/oneDNN/v3.6/group_dnnl_api_blas.html */
int dnnl_gemm_bf16bf16f32(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha, const uint16_t* a,
                          int64_t lda, const uint16_t* b, int64_t ldb, float beta, float* c, int64_t ldc);
}
