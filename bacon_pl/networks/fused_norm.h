// What the kernels of fused.cpp share: vectors of filters, and instance norm -> ReLU -> 2x2 average pooling of one
// filter block of one image, forward and backward. Included by fused.cpp alone, so all of it is local to that file.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

// As many as a register holds: with two registers a vector, a processor with AVX2 would run out of them.
#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int WAYS = 4;  // sums at a time, for each addition waits for its last
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float Loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef uint32_t Word __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef uint16_t Half __attribute__((vector_size(LANES * sizeof(uint16_t)), aligned(2), may_alias));

inline Vec all(float x) { return Vec{} + x; }
inline Vec where_positive(Vec test, Vec value) { return test > 0 ? value : Vec{}; }
inline Vec relu(Vec v) { return Vec{} > v ? Vec{} : v; }  // this way around NaN stays

// bfloat16 (as uint16_t) or float, LANES at a time; rounded to nearest, ties to even. The processor's NaN stays one.
inline Vec load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
inline Vec load(const uint16_t* p) {
    return reinterpret_cast<Vec>(__builtin_convertvector(*reinterpret_cast<const Half*>(p), Word) << 16);
}
inline void store(float* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }
inline void store(uint16_t* p, Vec v) {
    const Word word = reinterpret_cast<Word>(v);
    *reinterpret_cast<Half*>(p) = __builtin_convertvector((word + 0x7fffu + ((word >> 16) & 1u)) >> 16, Half);
}

// A block of filters of one image: vectors that follow each other at a distance. The last block may be narrower.
template <class T>
struct Block {
    T* start;
    int64_t step;
    int lanes;
    Vec operator[](int64_t pixel) const {
        if (lanes == LANES) return load(start + pixel * step);
        std::remove_const_t<T> some[LANES] = {};
        std::memcpy(some, start + pixel * step, lanes * sizeof(T));
        return load(some);
    }
    void set(int64_t pixel, Vec v) const {
        if (lanes == LANES) return store(start + pixel * step, v);
        T some[LANES];
        store(some, v);
        std::memcpy(start + pixel * step, some, lanes * sizeof(T));
    }
};

inline int blocks_of(int64_t filters) { return static_cast<int>((filters + LANES - 1) / LANES); }

template <class T>
Block<T> block_of(T* image, int64_t filters, int block) {
    const int64_t left = filters - static_cast<int64_t>(block) * LANES;
    return {image + block * LANES, filters, static_cast<int>(left < LANES ? left : LANES)};
}

struct Affine {
    Vec gamma, beta;
};

struct Moments {
    Vec mean, scale;  // scale is 1/deviation
};

template <class Map>
Moments moments(const Map& x, int64_t pixels, float eps) {
    const int64_t even = pixels / WAYS * WAYS;
    Vec total[WAYS] = {}, squares[WAYS] = {};
    for (int64_t i = 0; i < even; i += WAYS)
#pragma GCC unroll 4
        for (int way = 0; way < WAYS; ++way) total[way] += x[i + way];
    for (int64_t i = even; i < pixels; ++i) total[0] += x[i];
    const Vec mean = ((total[0] + total[1]) + (total[2] + total[3])) / all(static_cast<float>(pixels));
    for (int64_t i = 0; i < even; i += WAYS)
#pragma GCC unroll 4
        for (int way = 0; way < WAYS; ++way) {
            const Vec d = x[i + way] - mean;
            squares[way] += d * d;
        }
    for (int64_t i = even; i < pixels; ++i) squares[0] += (x[i] - mean) * (x[i] - mean);
    Vec scale = ((squares[0] + squares[1]) + (squares[2] + squares[3])) / all(static_cast<float>(pixels)) + eps;
    for (int lane = 0; lane < LANES; ++lane) scale[lane] = 1.0f / std::sqrt(scale[lane]);
    return {mean, scale};
}

// ReLU of the normed map, pooled.
template <class Map, class Out>
void pool(const Map& x, int h, int w, const Moments& m, const Affine& affine, const Block<Out>& out) {
    const Vec a = affine.gamma * m.scale, b = affine.beta - m.mean * a, quarter = all(0.25f);
    for (int i = 0; i < h / 2; ++i)
        for (int j = 0; j < w / 2; ++j) {
            const int64_t at = 2 * static_cast<int64_t>(i) * w + 2 * j;
            const Vec top = relu(x[at] * a + b) + relu(x[at + 1] * a + b);
            const Vec bottom = relu(x[at + w] * a + b) + relu(x[at + w + 1] * a + b);
            out.set(static_cast<int64_t>(i) * (w / 2) + j, (top + bottom) * quarter);
        }
}

// Gradients by the norm's input (into d_x, which may be x itself), scale and shift. Pixels that an odd side leaves out
// of the pooling pass nothing down.
template <class Map, class Target, class Out>
Affine backward(const Map& x, int h, int w, const Moments& m, const Affine& affine, const Block<const Out>& gradient,
                const Target& d_x) {
    const Vec quarter = all(0.25f);
    Vec first[WAYS] = {}, second[WAYS] = {};
    for (int i = 0; i < h / 2; ++i)
        for (int j = 0; j < w / 2; ++j) {
            const Vec spread = gradient[static_cast<int64_t>(i) * (w / 2) + j] * quarter;
            const int64_t at = 2 * static_cast<int64_t>(i) * w + 2 * j;
#pragma GCC unroll 4
            for (int k = 0; k < WAYS; ++k) {
                const Vec normed = (x[at + k / 2 * w + k % 2] - m.mean) * m.scale;
                const Vec d = where_positive(normed * affine.gamma + affine.beta, spread);
                first[k] += d;
                second[k] += d * normed;
            }
        }
    const Vec d_beta = (first[0] + first[1]) + (first[2] + first[3]);
    const Vec d_gamma = (second[0] + second[1]) + (second[2] + second[3]);
    const Vec area = all(static_cast<float>(h) * static_cast<float>(w)), factor = affine.gamma * m.scale;
    const Vec a = d_beta / area, b = d_gamma / area;
    const auto visit = [&](int64_t at, Vec spread) {
        const Vec normed = (x[at] - m.mean) * m.scale;
        const Vec d = where_positive(normed * affine.gamma + affine.beta, spread);
        d_x.set(at, (d - a - normed * b) * factor);
    };
    for (int i = 0; i < h / 2; ++i) {
        for (int j = 0; j < w / 2; ++j) {
            const Vec spread = gradient[static_cast<int64_t>(i) * (w / 2) + j] * quarter;
            const int64_t at = 2 * static_cast<int64_t>(i) * w + 2 * j;
#pragma GCC unroll 4
            for (int k = 0; k < WAYS; ++k) visit(at + k / 2 * w + k % 2, spread);
        }
        if (w % 2)
            for (int k = 0; k < 2; ++k) visit((2 * static_cast<int64_t>(i) + k) * w + w - 1, Vec{});
    }
    if (h % 2)
        for (int j = 0; j < w; ++j) visit(static_cast<int64_t>(h - 1) * w + j, Vec{});
    return {d_gamma, d_beta};
}

}  // namespace
