/* The attention kernels as Paddle operators:

     vilg_block_sparse_attention(Q, K, V, Layout; scale, headers) -> Out, Lse
     vilg_packed_attention(QKV, Layout; scale, headers) -> Out, Lse

   Q, K, V and Out are [B, S, H, D], QKV is [B, S, 3, H, D], Lse is float32 [B, H, S]. The packed operator reads
   queries, keys and values directly from the output of their common projection and writes their gradients in the
   same form, so that no tensor has to be split or concatenated.

   The tensors are float32, float16 or bfloat16, all of one type. On a CPU, Layout is the result of Tiles.packed()
   (vilg/attention/tiles.py). On a GPU, Layout is two packed layouts, one after the other (on_gpu.h). `headers` are the
   first 8 elements of each packed layout, in host memory; they are used only on a GPU. */
#include <omp.h>

#include <vector>

#include "../attention.h"
#include "elements.h"
#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"
#ifdef VILG_WITH_CUDA
#include "on_gpu.h"
#endif

namespace {

using paddle::Tensor;
using vilg::at;
using vilg::type_of;
using Sizes = std::vector<int64_t>;

void check(const Tensor& x, const Tensor& first, const Sizes& sizes, const char* name) {
  PD_CHECK(x.is_cpu() && x.dtype() == first.dtype() && x.shape() == sizes, "vilg attention: ", name,
           " must be on the CPU and fit the others in type and sizes");
}

Tensor floats(const Sizes& sizes, const Tensor& like) {
  return paddle::experimental::empty(sizes, phi::DataType::FLOAT32, like.place());
}

Tensor like(const Tensor& x) { return paddle::experimental::empty(x.shape(), x.dtype(), x.place()); }

/* The arguments common to all calls of the CPU kernels. The number of threads is OpenMP's. */
struct Call {
  vilg_shape shape;
  const int32_t* packed;
  int64_t size;
  int threads = omp_get_max_threads();

  Call(const Sizes& bshd, float scale, const Tensor& q, const Tensor& layout)
      : shape{bshd[0], bshd[1], bshd[2], bshd[3], scale, type_of(q)}, size(layout.numel()) {
    PD_CHECK(layout.is_cpu() && layout.dtype() == phi::DataType::INT32,
             "vilg attention: the layout must be int32 on the CPU");
    packed = layout.data<int32_t>();
  }
  int64_t row() const { return shape.heads * shape.head_size; }
  Sizes lse() const { return {shape.batch, shape.heads, shape.length}; }
};

void succeed(int code) { PD_CHECK(code == VILG_OK, "vilg attention: ", vilg_attention_error(code)); }

/* row: distance in elements between two positions of q, k and v. */
std::vector<Tensor> Run(const Call& call, const Tensor& like, const Sizes& out_sizes, const void* q, const void* k,
                        const void* v, int64_t row) {
  Tensor out = paddle::experimental::empty(out_sizes, like.dtype(), like.place()), lse = floats(call.lse(), like);
  Tensor workspace =
      floats({vilg_attention_forward_workspace(&call.shape, call.packed, call.size, call.threads)}, like);
  succeed(vilg_attention_forward(&call.shape, call.packed, call.size, q, row, k, row, v, row, out.data(),
                                 call.row(), lse.data<float>(), workspace.data<float>(), call.threads));
  return {out, lse};
}

void RunGrad(const Call& call, const void* q, const void* k, const void* v, const Tensor& out, const Tensor& lse,
             const Tensor& grad_out, void* grad_q, void* grad_k, void* grad_v, int64_t row) {
  check(grad_out, out, out.shape(), "the gradient");
  Tensor workspace =
      floats({vilg_attention_backward_workspace(&call.shape, call.packed, call.size, call.threads)}, out);
  succeed(vilg_attention_backward(&call.shape, call.packed, call.size, q, row, k, row, v, row, out.data(),
                                  call.row(), lse.data<float>(), grad_out.data(), call.row(), grad_q, row,
                                  grad_k, row, grad_v, row, workspace.data<float>(), call.threads));
}

std::vector<Tensor> Forward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& layout, float scale,
                            const std::vector<int>& headers) {
  const Sizes sizes = q.shape();
  PD_CHECK(sizes.size() == 4, "vilg attention: queries must be [B, S, H, D]");
#ifdef VILG_WITH_CUDA
  if (q.is_gpu())
    return vilg_gpu::Forward({sizes, scale, layout, headers, sizes[2] * sizes[3]}, q, k, v, {0, 0, 0});
#endif
  check(q, q, sizes, "queries"), check(k, q, sizes, "keys"), check(v, q, sizes, "values");
  const Call call(sizes, scale, q, layout);
  return Run(call, q, sizes, q.data(), k.data(), v.data(), call.row());
}

std::vector<Tensor> Backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& layout,
                             const Tensor& out, const Tensor& lse, const Tensor& grad_out, float scale,
                             const std::vector<int>& headers) {
  const Sizes sizes = q.shape();
  Tensor grad_q = like(q), grad_k = like(k), grad_v = like(v);
#ifdef VILG_WITH_CUDA
  if (q.is_gpu()) {
    vilg_gpu::Backward({sizes, scale, layout, headers, sizes[2] * sizes[3]}, q, k, v, {0, 0, 0}, out, lse, grad_out,
                       &grad_q, &grad_k, &grad_v);
    return {grad_q, grad_k, grad_v};
  }
#endif
  const Call call(sizes, scale, q, layout);
  RunGrad(call, q.data(), k.data(), v.data(), out, lse, grad_out, grad_q.data(), grad_k.data(), grad_v.data(),
          call.row());
  return {grad_q, grad_k, grad_v};
}

/* [B, S, H, D] from [B, S, 3, H, D]. */
Sizes without_three(const Sizes& qkv) { return {qkv[0], qkv[1], qkv[3], qkv[4]}; }

std::vector<Tensor> PackedForward(const Tensor& qkv, const Tensor& layout, float scale,
                                  const std::vector<int>& headers) {
  const Sizes sizes = qkv.shape();
  PD_CHECK(sizes.size() == 5 && sizes[2] == 3, "vilg attention: packed inputs must be [B, S, 3, H, D]");
#ifdef VILG_WITH_CUDA
  if (qkv.is_gpu()) {
    const int64_t row = sizes[3] * sizes[4];
    return vilg_gpu::Forward({without_three(sizes), scale, layout, headers, 3 * row}, qkv, qkv, qkv,
                             {0, row, 2 * row});
  }
#endif
  check(qkv, qkv, sizes, "the packed inputs");
  const Call call(without_three(sizes), scale, qkv, layout);
  const int64_t row = call.row();
  return Run(call, qkv, without_three(sizes), at(qkv, 0), at(qkv, row), at(qkv, 2 * row), 3 * row);
}

std::vector<Tensor> PackedBackward(const Tensor& qkv, const Tensor& layout, const Tensor& out, const Tensor& lse,
                                   const Tensor& grad_out, float scale, const std::vector<int>& headers) {
  const Sizes sizes = without_three(qkv.shape());
  Tensor grad = like(qkv);
#ifdef VILG_WITH_CUDA
  if (qkv.is_gpu()) {
    const int64_t row = sizes[2] * sizes[3];
    vilg_gpu::Backward({sizes, scale, layout, headers, 3 * row}, qkv, qkv, qkv, {0, row, 2 * row}, out, lse, grad_out,
                       &grad, &grad, &grad);
    return {grad};
  }
#endif
  const Call call(sizes, scale, qkv, layout);
  const int64_t row = call.row();
  RunGrad(call, at(qkv, 0), at(qkv, row), at(qkv, 2 * row), out, lse, grad_out, at(&grad, 0), at(&grad, row),
          at(&grad, 2 * row), 3 * row);
  return {grad};
}

std::vector<Sizes> InferShape(const Sizes& q, const Sizes&, const Sizes&, const Sizes&, float,
                              const std::vector<int>&) {
  return {q, {q[0], q[2], q[1]}};
}

std::vector<phi::DataType> InferDtype(phi::DataType q, phi::DataType, phi::DataType, phi::DataType) {
  return {q, phi::DataType::FLOAT32};
}

std::vector<Sizes> PackedInferShape(const Sizes& qkv, const Sizes&, float, const std::vector<int>&) {
  return {without_three(qkv), {qkv[0], qkv[3], qkv[1]}};
}

std::vector<phi::DataType> PackedInferDtype(phi::DataType qkv, phi::DataType) {
  return {qkv, phi::DataType::FLOAT32};
}

}  // namespace

PD_BUILD_OP(vilg_block_sparse_attention)
    .Inputs({"Q", "K", "V", "Layout"})
    .Outputs({"Out", "Lse"})
    .Attrs({"scale: float", "headers: std::vector<int>"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(InferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(InferDtype));

PD_BUILD_GRAD_OP(vilg_block_sparse_attention)
    .Inputs({"Q", "K", "V", "Layout", "Out", "Lse", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Q"), paddle::Grad("K"), paddle::Grad("V")})
    .Attrs({"scale: float", "headers: std::vector<int>"})
    .SetKernelFn(PD_KERNEL(Backward));

PD_BUILD_OP(vilg_packed_attention)
    .Inputs({"QKV", "Layout"})
    .Outputs({"Out", "Lse"})
    .Attrs({"scale: float", "headers: std::vector<int>"})
    .SetKernelFn(PD_KERNEL(PackedForward))
    .SetInferShapeFn(PD_INFER_SHAPE(PackedInferShape))
    .SetInferDtypeFn(PD_INFER_DTYPE(PackedInferDtype));

PD_BUILD_GRAD_OP(vilg_packed_attention)
    .Inputs({"QKV", "Layout", "Out", "Lse", paddle::Grad("Out")})
    .Outputs({paddle::Grad("QKV")})
    .Attrs({"scale: float", "headers: std::vector<int>"})
    .SetKernelFn(PD_KERNEL(PackedBackward));
