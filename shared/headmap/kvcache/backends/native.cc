// Decode attention over a layer's blocks on a CPU; `native.py` compiles it and says what the arguments are.
//
// The blocks, in the order of their rows, are cut into equal shares, one a thread: a row of many tokens is worked on by
// several. Each thread keeps a running softmax of the row it is in; the rows that a cut went through are joined at the
// end. Every key and value is read once, and nothing but the rows' own sums is written.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include <omp.h>

namespace {

constexpr int LANES = 16;  // what the widest registers hold; compilers split it for narrower ones
constexpr int64_t LEAST_WORK = 1 << 16;  // products that are worth waking another thread for
constexpr float NOTHING = -std::numeric_limits<float>::infinity();

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));

Vec &at(float *place) { return *reinterpret_cast<Vec *>(place); }
const Vec &at(const float *place) { return *reinterpret_cast<const Vec *>(place); }

// 2 to the power of each lane, to a relative error of 2e-7; 0 from -126 down. No lane above 0.
Vec exp2(Vec x) {
    const Vec low = Vec{} - 126.0f;
    const Vec bounded = x > low ? x : low;
    const Vec shifted = bounded + 12582912.0f;  // 1.5 x 2^23: the last bits are now the nearest integer
    const Vec rest = bounded - (shifted - 12582912.0f);
    Vec y = 1.5403530e-4f * rest + 1.3333558e-3f;  // the series of 2^rest
    y = y * rest + 9.6181291e-3f;
    y = y * rest + 5.5504109e-2f;
    y = y * rest + 2.4022651e-1f;
    y = y * rest + 6.9314718e-1f;
    y = y * rest + 1.0f;
    const Ints exponent = (reinterpret_cast<Ints>(shifted) - 0x4B400000) << 23;
    return x > low ? reinterpret_cast<Vec>(reinterpret_cast<Ints>(y) + exponent) : Vec{};
}

// Sums of neighbouring lanes: those of a, then those of b. Four levels of it turn 16 vectors into their 16 sums.
Vec fold(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

float highest(Vec v) {
    float found = v[0];
    for (int lane = 1; lane < LANES; lane++) found = v[lane] > found ? v[lane] : found;
    return found;
}

float sum(Vec v) {
    float found = 0;
    for (int lane = 0; lane < LANES; lane++) found += v[lane];
    return found;
}

// The softmax so far of the queries of one row: highest logit, sum of weights and weighted sum of values, by query.
struct Running {
    int64_t row = -1;
    int64_t d;
    std::vector<float> peak, total, values;

    Running(int64_t group, int64_t d) : d(d), peak(group), total(group), values(group * d) {}

    void begin(int64_t at) {
        row = at;
        peak.assign(peak.size(), NOTHING);
        total.assign(total.size(), 0);
        values.assign(values.size(), 0);
    }

    // Measure query h's weights against a logit at least as high as before.
    void raise(int64_t h, float to) {
        if (to == peak[h]) return;
        const float shrink = std::exp2(peak[h] - to);
        peak[h] = to;
        total[h] *= shrink;
        for (int64_t c = h * d; c < (h + 1) * d; c++) values[c] *= shrink;
    }

    void join(Running &other) {
        for (size_t h = 0; h < peak.size(); h++) {
            const float high = std::fmax(peak[h], other.peak[h]);
            if (high == NOTHING) continue;
            raise(h, high);
            other.raise(h, high);
            total[h] += other.total[h];
        }
        for (size_t c = 0; c < values.size(); c++) values[c] += other.values[c];
    }

    void write(float *output) const {
        for (size_t c = 0; c < values.size(); c++) output[row * values.size() + c] = values[c] / total[c / d];
    }
};

// values: (size, d). Adds the weighted sum of N vectors of each to `sums`.
template <int N>
void weigh(const float *weights, const float *values, int64_t size, int64_t d, float *sums) {
    Vec parts[N];
    for (int n = 0; n < N; n++) parts[n] = at(sums + n * LANES);
    for (int64_t j = 0; j < size; j++)
        for (int n = 0; n < N; n++) parts[n] += weights[j] * at(values + j * d + n * LANES);
    for (int n = 0; n < N; n++) at(sums + n * LANES) = parts[n];
}

// The products of a query (d,) with 16 keys (16, d).
Vec dots(const float *query, const float *keys, int64_t d) {
    Vec products[LANES];
    for (int j = 0; j < LANES; j++) products[j] = at(query) * at(keys + j * d);
    for (int64_t c = LANES; c < d; c += LANES)
        for (int j = 0; j < LANES; j++) products[j] += at(query + c) * at(keys + j * d + c);
    for (int left = LANES / 2; left; left /= 2)
        for (int i = 0; i < left; i++) products[i] = fold(products[2 * i], products[2 * i + 1]);
    return products[0];
}

// One block: keys, values (size, d) and bias (size,) meet the queries (g, d) of its row. weights: room for `size`.
void meet(const float *queries, const float *keys, const float *values, const float *bias, float scaling, int64_t size,
          float *weights, Running &row) {
    const int64_t d = row.d;
    for (size_t h = 0; h < row.peak.size(); h++) {
        Vec high = Vec{} + NOTHING;
        for (int64_t j = 0; j < size; j += LANES) {
            const Vec logits = dots(queries + h * d, keys + j * d, d) * scaling + at(bias + j);
            at(weights + j) = logits;
            high = logits > high ? logits : high;
        }
        row.raise(h, std::fmax(row.peak[h], highest(high)));
        Vec total{};
        for (int64_t j = 0; j < size; j += LANES) total += at(weights + j) = exp2(at(weights + j) - row.peak[h]);
        row.total[h] += sum(total);
        float *sums = row.values.data() + h * d;
        int64_t c = 0;
        for (; c + 4 * LANES <= d; c += 4 * LANES) weigh<4>(weights, values + c, size, d, sums + c);
        for (; c < d; c += LANES) weigh<1>(weights, values + c, size, d, sums + c);
    }
}

// A block of floats: where it lies, or, of bfloat16, a copy in `room`.
const float *block_of(const float *tensor, int64_t first, int64_t, float *) { return tensor + first; }
const float *block_of(const uint16_t *tensor, int64_t first, int64_t count, float *room) {
    for (int64_t i = 0; i < count; i += LANES) {
        const Halves halves = *reinterpret_cast<const Halves *>(tensor + first + i);
        at(room + i) = reinterpret_cast<Vec>(__builtin_convertvector(halves, Words) << 16);
    }
    return room;
}

template <typename Float>
void attend(const float *queries, const Float *keys, const Float *values, const float *bias, const int64_t *order,
            const int64_t *starts, int64_t rows, int64_t group, int64_t size, int64_t d, float scaling, float *output,
            int64_t threads) {
    const int64_t blocks = starts[rows], block = size * d;
    const int64_t worth = 1 + blocks * block * group / LEAST_WORK;
    threads = worth < threads ? worth : threads;
    std::vector<Running> ends(2 * threads, Running(group, d));  // the first and the last row of each share
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int64_t share = omp_get_thread_num(), shares = omp_get_num_threads();
        int64_t next = blocks * share / shares;
        const int64_t stop = blocks * (share + 1) / shares;
        std::vector<float> room(size + 2 * block);
        Running *running = &ends[2 * share];
        for (int64_t row = 0; next < stop; row++) {
            const int64_t end = starts[row + 1] < stop ? starts[row + 1] : stop;
            if (next >= end) continue;
            if (running == &ends[2 * share + 1]) running->write(output);  // begun and ended in this share
            if (running->row >= 0) running = &ends[2 * share + 1];
            running->begin(row);
            for (; next < end; next++) {
                const float *masks = bias + order[next] * size;
                if (masks[0] == NOTHING) continue;  // a free block
                const float *own_keys = block_of(keys, order[next] * block, block, room.data() + size);
                const float *own_values = block_of(values, order[next] * block, block, room.data() + size + block);
                meet(queries + row * group * d, own_keys, own_values, masks, scaling, size, room.data(), *running);
            }
        }
    }
    Running *joined = nullptr;
    for (Running &one : ends) {
        if (one.row < 0) continue;
        if (joined && joined->row == one.row) {
            joined->join(one);
        } else {
            if (joined) joined->write(output);
            joined = &one;
        }
    }
    if (joined) joined->write(output);
}

}  // namespace

extern "C" {

void attend_float32(const float *queries, const float *keys, const float *values, const float *bias,
                    const int64_t *order, const int64_t *starts, int64_t rows, int64_t group, int64_t size, int64_t d,
                    float scaling, float *output, int64_t threads) {
    attend(queries, keys, values, bias, order, starts, rows, group, size, d, scaling, output, threads);
}

void attend_bfloat16(const float *queries, const uint16_t *keys, const uint16_t *values, const float *bias,
                     const int64_t *order, const int64_t *starts, int64_t rows, int64_t group, int64_t size, int64_t d,
                     float scaling, float *output, int64_t threads) {
    attend(queries, keys, values, bias, order, starts, rows, group, size, d, scaling, output, threads);
}
}
