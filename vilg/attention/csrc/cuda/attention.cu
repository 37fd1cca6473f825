/* Selects the kernel for dtype and head size, and implements the C interface of attention_cuda.h. */
#include "launch.cuh"
#include "single.cuh"

namespace {

using namespace vilg_cuda;
using vilg::Layout;

/* Parses the layout; false if it is invalid, for another sequence length or for another tile size. */
bool fits(const vilg_cuda_shape* shape, const vilg_cuda_layout* from, int queries, int keys, Layout* layout) {
  return vilg::read_layout(from->header, from->packed, layout) && layout->length == shape->length &&
         layout->queries == queries && layout->keys == keys;
}

/* The grid of a launch: (`along` blocks, heads, batch). */
dim3 blocks_of(const vilg_cuda_shape* shape, int64_t along) {
  return dim3(unsigned(along), unsigned(shape->heads), unsigned(shape->batch));
}

/* Launches the tensor core kernels. The specialisation for float launches the fp32 reference kernels. */
template <typename T, int D>
struct Run {
  static constexpr size_t kOwnedBytes = sizeof(T) * kOwned * D, kPassedBytes = 2 * sizeof(T) * kPassed * D;

  static int forward(const ForwardArguments<T>& in, dim3 blocks, cudaStream_t stream) {
    return launch(vilg_cuda::forward<T, D>, blocks, kThreads, kOwnedBytes + 2 * kPassedBytes, stream, in);
  }
  static int backward(const BackwardArguments<T>& in, dim3 queries, dim3 keys, cudaStream_t stream) {
    const size_t shared = 2 * kOwnedBytes + 2 * kPassedBytes;
    if (const int error = launch(gradient_of_queries<T, D>, queries, kThreads, shared, stream, in)) return error;
    return launch(gradient_of_keys<T, D>, keys, kThreads, shared + 4 * kPassed * sizeof(float), stream, in);
  }
};

template <int D>
struct Run<float, D> {
  static constexpr int kBlock = Single<D>::kThreadsOfBlock;

  static int forward(const ForwardArguments<float>& in, dim3 blocks, cudaStream_t stream) {
    return launch(single_forward<D>, blocks, kBlock, 0, stream, in);
  }
  static int backward(const BackwardArguments<float>& in, dim3 queries, dim3 keys, cudaStream_t stream) {
    if (const int error = launch(single_gradient_of_queries<D>, queries, kBlock, 0, stream, in)) return error;
    return launch(single_gradient_of_keys<D>, keys, kBlock, 0, stream, in);
  }
};

template <typename T, typename Work>
int choose_head_size(int64_t head_size, const Work& work) {
  switch (head_size) {
    case 32: return work.template run<T, 32>();
    case 64: return work.template run<T, 64>();
    case 128: return work.template run<T, 128>();
    default: return cudaErrorInvalidValue;
  }
}

/* Calls work.run<T, D>() for the dtype and head size of the shape. */
template <typename Work>
int choose(const vilg_cuda_shape* shape, const Work& work) {
  switch (shape->dtype) {
    case VILG_FLOAT32: return choose_head_size<float>(shape->head_size, work);
    case VILG_FLOAT16: return choose_head_size<__half>(shape->head_size, work);
    case VILG_BFLOAT16: return choose_head_size<__nv_bfloat16>(shape->head_size, work);
    default: return cudaErrorInvalidValue;
  }
}

/* The arguments of the forward pass before dtype and head size are template parameters. */
struct Forward {
  const vilg_cuda_shape* shape;
  const Layout& layout;
  vilg_cuda_in q, k, v;
  vilg_cuda_out out;
  float* lse;
  cudaStream_t stream;

  template <typename T, int D>
  int run() const {
    ForwardArguments<T> in;
    in.layout = layout;
    in.q = static_cast<const T*>(q.data), in.q_row = q.row;
    in.k = static_cast<const T*>(k.data), in.k_row = k.row;
    in.v = static_cast<const T*>(v.data), in.v_row = v.row;
    in.out = static_cast<T*>(out.data), in.out_row = out.row;
    in.lse = lse, in.length = shape->length, in.heads = shape->heads, in.scale = shape->scale;
    return Run<T, D>::forward(in, blocks_of(shape, layout.by_query.blocks), stream);
  }
};

/* The same for the backward pass. */
struct Backward {
  const vilg_cuda_shape* shape;
  const Layout &by_query, &by_key;
  vilg_cuda_in q, k, v, out, grad_out;
  const float* lse;
  vilg_cuda_out grad_q, grad_k, grad_v;
  float* delta;
  cudaStream_t stream;

  template <typename T, int D>
  int run() const {
    BackwardArguments<T> in;
    in.by_query = by_query, in.by_key = by_key;
    in.q = static_cast<const T*>(q.data), in.q_row = q.row;
    in.k = static_cast<const T*>(k.data), in.k_row = k.row;
    in.v = static_cast<const T*>(v.data), in.v_row = v.row;
    in.out = static_cast<const T*>(out.data), in.out_row = out.row;
    in.grad_out = static_cast<const T*>(grad_out.data), in.grad_out_row = grad_out.row;
    in.grad_q = static_cast<T*>(grad_q.data), in.grad_q_row = grad_q.row;
    in.grad_k = static_cast<T*>(grad_k.data), in.grad_k_row = grad_k.row;
    in.grad_v = static_cast<T*>(grad_v.data), in.grad_v_row = grad_v.row;
    in.lse = lse, in.delta = delta, in.length = shape->length, in.heads = shape->heads, in.scale = shape->scale;
    constexpr int kPositions = kThreads / kWarp;
    if (const int error = launch(sum_out_times_gradient<T, D>,
                                 blocks_of(shape, (shape->length + kPositions - 1) / kPositions), kThreads, 0, stream,
                                 in))
      return error;
    return Run<T, D>::backward(in, blocks_of(shape, by_query.by_query.blocks), blocks_of(shape, by_key.by_key.blocks),
                               stream);
  }
};

}  // namespace

extern "C" int vilg_attention_cuda_forward(const vilg_cuda_shape* shape, const vilg_cuda_layout* by_query,
                                           vilg_cuda_in q, vilg_cuda_in k, vilg_cuda_in v, vilg_cuda_out out,
                                           float* lse, void* stream) {
  Layout layout;
  if (!fits(shape, by_query, kOwned, kPassed, &layout)) return cudaErrorInvalidValue;
  return choose(shape, Forward{shape, layout, q, k, v, out, lse, static_cast<cudaStream_t>(stream)});
}

extern "C" int vilg_attention_cuda_backward(const vilg_cuda_shape* shape, const vilg_cuda_layout* by_query,
                                            const vilg_cuda_layout* by_key, vilg_cuda_in q, vilg_cuda_in k,
                                            vilg_cuda_in v, vilg_cuda_in out, const float* lse, vilg_cuda_in grad_out,
                                            vilg_cuda_out grad_q, vilg_cuda_out grad_k, vilg_cuda_out grad_v,
                                            float* workspace, void* stream) {
  Layout queries, keys;
  if (!fits(shape, by_query, kOwned, kPassed, &queries) || !fits(shape, by_key, kPassed, kOwned, &keys))
    return cudaErrorInvalidValue;
  return choose(shape, Backward{shape, queries, keys, q, k, v, out, grad_out, lse, grad_q, grad_k, grad_v, workspace,
                                static_cast<cudaStream_t>(stream)});
}

extern "C" int64_t vilg_attention_cuda_backward_workspace(const vilg_cuda_shape* shape) {
  return shape->batch * shape->heads * shape->length;
}
