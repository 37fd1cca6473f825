/* Block-sparse attention: the C interface of the CUDA kernels. It does not depend on Paddle.

   Tensors are in device memory, [batch, length, heads, head_size] in `dtype`. `row` is the distance in elements
   between two positions and has to be a multiple of 8. Every data pointer has to be aligned to 16 bytes. lse is
   float32 [batch, heads, length]. A layout is the result of Tiles.packed() (vilg/attention/tiles.py) in device
   memory, with a copy of its header in host memory. Nothing is allocated. All work is enqueued on `stream`. The
   result does not depend on the order in which thread blocks are scheduled. */
#pragma once
#include <stdint.h>

#include "element.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t batch, length, heads, head_size; /* head_size 32, 64 or 128 */
  float scale;
  int dtype;
} vilg_cuda_shape;

typedef struct {
  const int32_t* packed; /* in device memory */
  int32_t header[8];     /* its first elements, in host memory */
} vilg_cuda_layout;

typedef struct {
  const void* data;
  int64_t row;
} vilg_cuda_in;
typedef struct {
  void* data;
  int64_t row;
} vilg_cuda_out;

/* Tile sizes of the kernels. In the forward pass and for dQ, a thread block owns 64 queries and iterates over 32
   keys at a time. For dK and dV, it owns 64 keys and iterates over 32 queries at a time. */
enum { VILG_CUDA_OWNED = 64, VILG_CUDA_PASSED = 32 };

/* Both functions return a cudaError_t: cudaErrorInvalidValue if the shape is not supported or the layout does not
   fit. */
int vilg_attention_cuda_forward(const vilg_cuda_shape*, const vilg_cuda_layout* by_query, vilg_cuda_in q,
                                vilg_cuda_in k, vilg_cuda_in v, vilg_cuda_out out, float* lse, void* stream);

/* by_query has tiles of 64 queries x 32 keys, by_key has tiles of 32 queries x 64 keys. The function below
   returns the size of `workspace`. */
int vilg_attention_cuda_backward(const vilg_cuda_shape*, const vilg_cuda_layout* by_query,
                                 const vilg_cuda_layout* by_key, vilg_cuda_in q, vilg_cuda_in k, vilg_cuda_in v,
                                 vilg_cuda_in out, const float* lse, vilg_cuda_in grad_out, vilg_cuda_out grad_q,
                                 vilg_cuda_out grad_k, vilg_cuda_out grad_v, float* workspace, void* stream);
int64_t vilg_attention_cuda_backward_workspace(const vilg_cuda_shape*); /* in floats */

#ifdef __cplusplus
}
#endif
