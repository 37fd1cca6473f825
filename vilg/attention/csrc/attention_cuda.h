/* Block-sparse attention: the C interface of the CUDA kernels. Nothing of Paddle is in it.

   Tensors lie on the device, [batch, length, heads, head_size] in `dtype`; `*_row` is the distance in numbers between
   two positions, a multiple of 8, and every pointer is a multiple of 16 bytes. lse is float32 [batch, heads, length].
   Layouts are Tiles.packed() on the device, with their headers on the host. Nothing is allocated; all work goes to
   `stream`, and the result does not depend on how blocks are scheduled. */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { VILG_FLOAT32 = 0, VILG_FLOAT16 = 1, VILG_BFLOAT16 = 2 };

typedef struct {
  int64_t batch, length, heads, head_size; /* head_size 64 or 128 */
  float scale;
  int dtype;
} vilg_cuda_shape;

typedef struct {
  const int32_t* packed; /* on the device */
  int32_t header[8];     /* the first numbers of it, on the host */
} vilg_cuda_layout;

typedef struct {
  const void* data;
  int64_t row;
} vilg_cuda_in;
typedef struct {
  void* data;
  int64_t row;
} vilg_cuda_out;

/* The tiles that the kernels walk over: the forward pass and dQ own 64 queries and go along 32 keys at a time, dK and
   dV own 64 keys and go along 32 queries. */
enum { VILG_CUDA_OWNED = 64, VILG_CUDA_PASSED = 32 };

/* Return a cudaError_t; cudaErrorInvalidValue where shape and layout do not fit. */
int vilg_attention_cuda_forward(const vilg_cuda_shape*, const vilg_cuda_layout* by_query, vilg_cuda_in q,
                                vilg_cuda_in k, vilg_cuda_in v, vilg_cuda_out out, float* lse, void* stream);

/* by_query has tiles of 64 queries x 32 keys, by_key of 32 queries x 64 keys. workspace: float32 of the size below. */
int vilg_attention_cuda_backward(const vilg_cuda_shape*, const vilg_cuda_layout* by_query,
                                 const vilg_cuda_layout* by_key, vilg_cuda_in q, vilg_cuda_in k, vilg_cuda_in v,
                                 vilg_cuda_in out, const float* lse, vilg_cuda_in grad_out, vilg_cuda_out grad_q,
                                 vilg_cuda_out grad_k, vilg_cuda_out grad_v, float* workspace, void* stream);
int64_t vilg_attention_cuda_backward_workspace(const vilg_cuda_shape*); /* floats */

#ifdef __cplusplus
}
#endif
