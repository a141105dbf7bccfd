// Runs the CUDA kernels of this crate on a CPU, a thread for each thread of a block, and compares them with plain loops.
//
//   g++ -O1 -std=c++20 -pthread tools/gpu/run_kernels.cpp -o run_kernels && ./run_kernels
//
// It finds wrong indices and formulas. It does not find what only a GPU has: launch limits, races between blocks.

#include <barrier>
#include <bit>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static

struct Index {
  int x;
};
static thread_local Index threadIdx, blockIdx;
static Index blockDim, gridDim;

static std::unique_ptr<std::barrier<>> of_block;
static std::vector<std::unique_ptr<std::barrier<>>> of_warp;
static float lanes[32][32];

static void __syncthreads() { of_block->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float value, int distance) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  lanes[warp][lane] = value;
  of_warp[warp]->arrive_and_wait();
  float other = lanes[warp][lane ^ distance];
  of_warp[warp]->arrive_and_wait();
  return other;
}

static float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
static int __float_as_int(float value) { return std::bit_cast<int>(value); }

#include "../../src/runtime/packed/fused/kernels.cu"

static void launch(int blocks, const std::function<void()> &kernel) {
  blockDim.x = 64;
  gridDim.x = blocks;
  for (int block = 0; block < blocks; block++) {
    of_block = std::make_unique<std::barrier<>>(blockDim.x);
    of_warp.clear();
    for (int warp = 0; warp < blockDim.x / 32; warp++) of_warp.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < blockDim.x; thread++)
      threads.emplace_back([=, &kernel] {
        threadIdx.x = thread;
        blockIdx.x = block;
        kernel();
      });
  }
}

static int failures = 0;

static void compare(const char *name, const char *type, const std::vector<double> &found, const std::vector<double> &expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  double error = std::sqrt(difference / size), limit = type[0] == 'f' ? 1e-5 : 1e-2;
  bool ok = error < limit;
  failures += !ok;
  std::printf("%-12s %-5s relative error %.1e %s\n", name, type, error, ok ? "" : "FAIL");
}

template <typename T> struct Numbers {
  alignas(16) std::vector<T> values;
  Numbers(int count, int seed = 0) : values(count) {
    for (int i = 0; i < count; i++) store(&values[i], ((i + seed) * 7919 % 2003) / 500.0f - 2.0f);
  }
  T *data() { return values.data(); }
  double at(int place) const { return load(values[place]); }
  std::vector<double> all() const {
    std::vector<double> all;
    for (T value : values) all.push_back(load(value));
    return all;
  }
};

template <typename T> void run(const char *type) {
  int rows = 3, width = 80, stride = 96;
  Numbers<T> x(rows * stride), y(rows * width, 3), weight(width, 5), sum(rows * width), normed(rows * width);
  launch(rows, [&] { add_rms_norm(x.data(), y.data(), weight.data(), sum.data(), normed.data(), width, stride, width, 1e-5f); });
  std::vector<double> sums, norms;
  for (int row = 0; row < rows; row++) {
    double squares = 0;
    for (int i = 0; i < width; i++) {
      double value = x.at(row * stride + i) + y.at(row * width + i);
      sums.push_back(value);
      squares += value * value;
    }
    for (int i = 0; i < width; i++)
      norms.push_back(sums[row * width + i] / std::sqrt(squares / width + 1e-5) * weight.at(i));
  }
  compare("sum", type, sum.all(), sums);
  compare("rms norm", type, normed.all(), norms);

  int heads = 3, dim = 16, half = dim / 2;
  Numbers<T> head_weight(dim, 5), cosines(11 * half, 2), sines(11 * half, 3), turned(rows * heads * dim);
  std::vector<unsigned> positions = {7, 0, 10};
  for (int norm = 0; norm < 2; norm++)
    for (int rope = 0; rope < 2; rope++) {
      launch((rows * heads + 1) / 2, [&] {
        norm_rope(x.data() + 16, head_weight.data(), cosines.data(), sines.data(), positions.data(), turned.data(), rows,
                  heads, dim, stride, norm, rope, 1e-6f);
      });
      std::vector<double> expected;
      for (int head = 0; head < rows * heads; head++) {
        auto from = [&](int i) { return x.at(16 + head / heads * stride + head % heads * dim + i); };
        double squares = 0;
        for (int i = 0; i < dim; i++) squares += from(i) * from(i);
        auto value = [&](int i) { return norm ? from(i) / std::sqrt(squares / dim + 1e-6) * head_weight.at(i) : from(i); };
        for (int i = 0; i < dim; i++) {
          int angle = positions[head / heads] * half + i % half;
          double cosine = cosines.at(angle), sine = sines.at(angle);
          double other = i < half ? -value(i + half) : value(i - half);
          expected.push_back(rope ? value(i) * cosine + other * sine : value(i));
        }
      }
      compare(norm ? (rope ? "norm + rope" : "head norm") : (rope ? "rope" : "copy"), type, turned.all(), expected);
    }

  Numbers<T> inner(rows * 32);
  for (int activation = 0; activation < 5; activation++) {
    launch(1, [&] { gated(x.data(), inner.data(), rows, 32, stride, activation); });
    std::vector<double> expected;
    for (int row = 0; row < rows; row++)
      for (int i = 0; i < 32; i++) {
        double gate = x.at(row * stride + i), up = x.at(row * stride + 32 + i);
        double active[] = {gate / (1 + std::exp(-gate)), gate * (1 + std::erf(gate / std::sqrt(2.0))) / 2,
                           gate * (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate))) / 2,
                           std::max(gate, 0.0), std::tanh(gate)};
        expected.push_back(active[activation] * up);
      }
    compare("gate", type, inner.all(), expected);
  }

  Numbers<T> own(rows * heads * dim), other(rows * heads * dim, 4), merged(rows * heads * dim);
  // The sums of a row's heads are 5 apart in one and 4 in the other, from its place on.
  std::vector<float> own_lse(rows * heads), other_lse(rows * heads), own_spread(99), other_spread(99);
  std::vector<unsigned> own_places = {40, 1, 20}, other_places = {0, 1, 2};
  for (int i = 0; i < rows * heads; i++) {
    own_lse[i] = i == 4 ? INFINITY : i * 3 % 7 - 3.0f;
    other_lse[i] = i == 2 ? INFINITY : i * 5 % 6 - 2.0f;
  }
  for (int row = 0; row < rows; row++)
    for (int head = 0; head < heads; head++) {
      own_spread[own_places[row] + head * 5] = own_lse[head * rows + row];
      other_spread[other_places[row] + head * 4] = other_lse[head * rows + row];
    }
  launch(2, [&] {
    merge(own.data(), other.data(), own_spread.data(), other_spread.data(), own_places.data(), other_places.data(),
          merged.data(), rows, heads, dim, 5, 4);
  });
  std::vector<double> expected;
  for (int place = 0; place < rows * heads * dim; place++) {
    int head = place / dim % heads, row = place / dim / heads, at = head * rows + row;
    double a = std::isinf(own_lse[at]) ? 0 : std::exp(own_lse[at]), b = std::isinf(other_lse[at]) ? 0 : std::exp(other_lse[at]);
    expected.push_back((a * own.at(place) + b * other.at(place)) / (a + b));
  }
  compare("merge", type, merged.all(), expected);
}

int main() {
  run<float>("f32");
  run<bf16>("bf16");
  return failures;
}
