// The kernels of the fused operations. NVRTC compiles them when a model is loaded; they include no header, so they need no
// toolkit. Numbers are f32 or bf16 in memory and f32 in registers.

struct bf16 {
  unsigned short bits;
};

__device__ __forceinline__ float load(float value) { return value; }
__device__ __forceinline__ float load(bf16 value) { return __int_as_float(((int)value.bits) << 16); }

__device__ __forceinline__ void store(float *place, float value) { *place = value; }
// Rounds to nearest, ties to even. A NaN stays one.
__device__ __forceinline__ void store(bf16 *place, float value) {
  unsigned int bits = (unsigned int)__float_as_int(value);
  bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  place->bits = is_nan ? 0x7fc0 : (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The value as memory would give it back.
template <typename T> __device__ __forceinline__ float rounded(float value) {
  T place;
  store(&place, value);
  return load(place);
}

__device__ __forceinline__ float sum_of_warp(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// 16 bytes of numbers, read and written at once.
template <typename T> struct alignas(16) Pack {
  static const int COUNT = 16 / sizeof(T);
  T values[16 / sizeof(T)];
};

// One block of 256 threads for each row: sum = x + y and normed = sum / rms(sum) * weight. Strides are distances of rows.
// `width` is a multiple of the pack.
template <typename T>
__device__ void add_rms_norm(const T *x, const T *y, const T *weight, T *sum, T *normed, int width, int x_stride,
                             int y_stride, float eps) {
  typedef Pack<T> P;
  long long row = blockIdx.x;
  int packs = width / P::COUNT;
  const P *x_row = (const P *)(x + row * x_stride), *y_row = (const P *)(y + row * y_stride), *weights = (const P *)weight;
  P *sum_row = (P *)(sum + row * width), *normed_row = (P *)(normed + row * width);
  float squares = 0;
  for (int place = threadIdx.x; place < packs; place += blockDim.x) {
    P a = x_row[place], b = y_row[place];
    for (int i = 0; i < P::COUNT; i++) {
      store(&a.values[i], load(a.values[i]) + load(b.values[i]));
      float value = load(a.values[i]);
      squares += value * value;
    }
    sum_row[place] = a;
  }
  __shared__ float of_warps[32];
  squares = sum_of_warp(squares);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = squares;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < (int)blockDim.x / 32; warp++) total += of_warps[warp];
  float scale = 1.0f / sqrtf(total / width + eps);
  // Each thread reads what it has written itself.
  for (int place = threadIdx.x; place < packs; place += blockDim.x) {
    P a = sum_row[place], w = weights[place];
    for (int i = 0; i < P::COUNT; i++) store(&a.values[i], load(a.values[i]) * scale * load(w.values[i]));
    normed_row[place] = a;
  }
}

// One warp for each head of each row: the RMS norm of a head where there is one, then its rotation by the
// angles of the row's position where there are any. `cosines` and `sines` are [positions, dim / 2].
template <typename T>
__device__ void norm_rope(const T *x, const T *weight, const T *cosines, const T *sines, const unsigned int *positions,
                          T *output, int rows, int heads, int dim, int x_stride, int has_norm, int has_rope, float eps) {
  long long head = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (head >= (long long)rows * heads) return;
  int lane = threadIdx.x % 32, half = dim / 2;
  long long row = head / heads;
  const T *from = x + row * x_stride + (head % heads) * dim;
  T *to = output + head * dim;
  float scale = 1.0f;
  if (has_norm) {
    float squares = 0;
    for (int i = lane; i < dim; i += 32) squares += load(from[i]) * load(from[i]);
    scale = 1.0f / sqrtf(sum_of_warp(squares) / dim + eps);
  }
  for (int i = lane; i < half; i += 32) {
    float first = load(from[i]), second = load(from[i + half]);
    if (has_norm) {
      first = rounded<T>(first * scale * load(weight[i]));
      second = rounded<T>(second * scale * load(weight[i + half]));
    }
    if (has_rope) {
      long long angle = (long long)positions[row] * half + i;
      float cosine = load(cosines[angle]), sine = load(sines[angle]);
      float turned = first * cosine - second * sine;
      second = second * cosine + first * sine;
      first = turned;
    }
    store(&to[i], first);
    store(&to[i + half], second);
  }
}

__device__ __forceinline__ float activate(int activation, float x) {
  switch (activation) {
    case 0: return x / (1.0f + expf(-x));
    case 1: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case 2: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case 3: return x > 0.0f ? x : 0.0f;
    default: return tanhf(x);
  }
}

// output = activation(gate) * up, of rows [gate | up] of twice the width, which is a multiple of the pack.
template <typename T>
__device__ void gated(const T *gate_up, T *output, long long rows, int width, int stride, int activation) {
  typedef Pack<T> P;
  int packs = width / P::COUNT;
  long long count = rows * packs, step = (long long)gridDim.x * blockDim.x;
  for (long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x; place < count; place += step) {
    long long row = place / packs, column = place % packs;
    const T *from = gate_up + row * stride;
    P gate = ((const P *)from)[column], up = ((const P *)(from + width))[column];
    for (int i = 0; i < P::COUNT; i++) {
      float active = rounded<T>(activate(activation, load(gate.values[i])));
      store(&gate.values[i], active * load(up.values[i]));
    }
    ((P *)output)[place] = gate;
  }
}

// Attention over two sets of keys as one: weighted by the sums of exponentials that `own_lse` and `other_lse` hold as
// logarithms, infinity where a query has no key. That of a row's head is at the row's place + head * distance.
template <typename T>
__device__ void merge(const T *own, const T *other, const float *own_lse, const float *other_lse,
                      const unsigned int *own_places, const unsigned int *other_places, T *output, long long rows, int heads,
                      int dim, int own_distance, int other_distance) {
  typedef Pack<T> P;
  int packs = dim / P::COUNT;
  long long count = rows * heads * packs, step = (long long)gridDim.x * blockDim.x;
  for (long long place = (long long)blockIdx.x * blockDim.x + threadIdx.x; place < count; place += step) {
    long long head = place / packs, row = head / heads;
    float own_sum = own_lse[own_places[row] + (head % heads) * own_distance];
    float other_sum = other_lse[other_places[row] + (head % heads) * other_distance];
    bool has_other = other_sum < 1e30f, has_own = own_sum < 1e30f;
    float share = !has_other ? 0.0f : !has_own ? 1.0f : 1.0f / (1.0f + expf(own_sum - other_sum));
    P a = ((const P *)own)[place], b = ((const P *)other)[place];
    for (int i = 0; i < P::COUNT; i++) {
      float x = load(a.values[i]), y = load(b.values[i]);
      store(&a.values[i], share == 0.0f ? x : share == 1.0f ? y : x + share * (y - x));
    }
    ((P *)output)[place] = a;
  }
}

#define FOR_TYPE(T, NAME)                                                                                                  \
  extern "C" __global__ void add_rms_norm_##NAME(const T *x, const T *y, const T *weight, T *sum, T *normed, int width,    \
                                                 int x_stride, int y_stride, float eps) {                                  \
    add_rms_norm(x, y, weight, sum, normed, width, x_stride, y_stride, eps);                                               \
  }                                                                                                                        \
  extern "C" __global__ void norm_rope_##NAME(const T *x, const T *weight, const T *cosines, const T *sines,               \
                                              const unsigned int *positions, T *output, int rows, int heads, int dim,      \
                                              int x_stride, int has_norm, int has_rope, float eps) {                       \
    norm_rope(x, weight, cosines, sines, positions, output, rows, heads, dim, x_stride, has_norm, has_rope, eps);          \
  }                                                                                                                        \
  extern "C" __global__ void gated_##NAME(const T *gate_up, T *output, long long rows, int width, int stride,              \
                                          int activation) {                                                                \
    gated(gate_up, output, rows, width, stride, activation);                                                               \
  }                                                                                                                        \
  extern "C" __global__ void merge_##NAME(const T *own, const T *other, const float *own_lse, const float *other_lse,      \
                                          const unsigned int *own_places, const unsigned int *other_places, T *output,     \
                                          long long rows, int heads, int dim, int own_distance,                            \
                                          int other_distance) {                                                            \
    merge(own, other, own_lse, other_lse, own_places, other_places, output, rows, heads, dim, own_distance,                \
          other_distance);                                                                                                 \
  }

FOR_TYPE(float, f32)
FOR_TYPE(bf16, bf16)
