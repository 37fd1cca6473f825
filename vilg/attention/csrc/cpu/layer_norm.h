/* y = n * weight + bias with n = (x - mean) / sqrt(variance + epsilon), for each row. */
#pragma once
#include <math.h>

#include "row_kernels.h"
#include "vector.h"

namespace VILG_ISA {

/* The statistics of a row; at() computes n. */
struct Normal {
  float mean, inverse; /* inverse = 1 / sqrt(variance + epsilon) */
  Vector at(const float* x) const { return (load(x) - mean) * inverse; }
};

inline Normal normal(const float* x, int64_t width, float epsilon) {
  Vector total = {}, squares = {};
  for (int64_t d = 0; d < width; d += kLanes) total += load(x + d);
  const float mean = sum(total) / width;
  for (int64_t d = 0; d < width; d += kLanes) {
    const Vector off = load(x + d) - mean;
    squares += off * off;
  }
  return {mean, 1.0f / sqrtf(sum(squares) / width + epsilon)};
}

inline void layer_norm(const vilg::LayerNormIn& in, int64_t first, int64_t last, float* out) {
  for (int64_t row = first; row < last; ++row) {
    const float* x = in.x + row * in.width;
    const Normal n = normal(x, in.width, in.epsilon);
    for (int64_t d = 0; d < in.width; d += kLanes)
      store(out + row * in.width + d, n.at(x + d) * load(in.weight + d) + load(in.bias + d));
  }
}

/* With g = weight * dy:
     dx = (g - mean(g) - n * mean(g * n)) / sqrt(variance + epsilon),  dweight += n * dy,  dbias += dy. */
inline void layer_norm_grad(const vilg::LayerNormIn& in, int64_t first, int64_t last, float* grad_x,
                            float* grad_weight, float* grad_bias) {
  for (int64_t row = first; row < last; ++row) {
    const float* x = in.x + row * in.width;
    const float* grad_out = in.grad_out + row * in.width;
    const Normal n = normal(x, in.width, in.epsilon);
    Vector total = {}, along = {};
    for (int64_t d = 0; d < in.width; d += kLanes) {
      const Vector grad = load(grad_out + d), weighted = grad * load(in.weight + d), place = n.at(x + d);
      total += weighted;
      along += weighted * place;
      store(grad_weight + d, load(grad_weight + d) + grad * place);
      store(grad_bias + d, load(grad_bias + d) + grad);
    }
    const float mean = sum(total) / in.width, mean_along = sum(along) / in.width;
    for (int64_t d = 0; d < in.width; d += kLanes) {
      const Vector weighted = load(grad_out + d) * load(in.weight + d);
      store(grad_x + row * in.width + d, (weighted - mean - n.at(x + d) * mean_along) * n.inverse);
    }
  }
}

}  // namespace VILG_ISA
