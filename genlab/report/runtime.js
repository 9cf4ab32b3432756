// Runs the programs of genlab/export/program.py, for one picture at a time. A value is
// {shape, data: Float32Array} in row-major order. An operation is called with its inputs, its
// output and its settings.
const size = (shape) => shape.reduce((a, b) => a * b, 1);

// The stride in `data` of each of `rank` dimensions, to which `shape` is broadcast: 0 where it
// repeats.
function strides(shape, rank = shape.length) {
  const found = new Array(rank).fill(0);
  for (let i = shape.length - 1, step = 1; i >= 0; step *= shape[i--])
    found[rank - shape.length + i] = shape[i] === 1 ? 0 : step;
  return found;
}

// Numbers from base64 of little-endian float16.
function floats(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const halves = new Uint16Array(bytes.buffer);
  const found = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const h = halves[i];
    const exponent = (h >> 10) & 31;
    const fraction = h & 1023;
    const value = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24;
    found[i] = h & 0x8000 ? -value : value;
  }
  return found;
}

// C += A B for C (M, N), A (M, K) with strides am and ak, and B (K, N). c0, a0 and b0 are offsets.
// Four rows of B at a time save most reads of C.
function gemm(C, c0, A, a0, am, ak, B, b0, M, K, N) {
  for (let m = 0; m < M; m++) {
    const c = c0 + m * N;
    let k = 0;
    for (; k + 4 <= K; k += 4) {
      const a = a0 + m * am + k * ak;
      const p = A[a];
      const q = A[a + ak];
      const r = A[a + 2 * ak];
      const s = A[a + 3 * ak];
      const b = b0 + k * N;
      const bq = b + N;
      const br = bq + N;
      const bs = br + N;
      for (let n = 0; n < N; n++)
        C[c + n] += p * B[b + n] + q * B[bq + n] + r * B[br + n] + s * B[bs + n];
    }
    for (; k < K; k++) {
      const p = A[a0 + m * am + k * ak];
      const b = b0 + k * N;
      for (let n = 0; n < N; n++) C[c + n] += p * B[b + n];
    }
  }
}

// The loop of im2col between a large image (channels, H, W) and a small one (h, w): calls
// call(index into the matrix of columns (channels kh kw, h w), index into the large image).
function patches(channels, H, W, h, w, kh, kw, settings, call) {
  const [sy, sx] = settings.stride;
  const [py, px] = settings.padding;
  const [dy, dx] = settings.dilation;
  for (let c = 0, row = 0; c < channels; c++)
    for (let i = 0; i < kh; i++)
      for (let j = 0; j < kw; j++, row++)
        for (let y = 0; y < h; y++) {
          const Y = y * sy - py + i * dy;
          if (Y < 0 || Y >= H) continue;
          for (let x = 0; x < w; x++) {
            const X = x * sx - px + j * dx;
            if (X >= 0 && X < W) call((row * h + y) * w + x, (c * H + Y) * W + X);
          }
        }
}

function conv([x, weight], out, settings) {
  const [O, I, kh, kw] = weight.shape;
  const [n, C, H, W] = x.shape;
  const [h, w] = out.shape.slice(2);
  const K = I * kh * kw;
  const o = O / settings.groups;
  for (let g = 0; g < settings.groups; g++) {
    const columns = new Float32Array(K * h * w);
    const from = g * I * H * W;
    patches(I, H, W, h, w, kh, kw, settings, (column, pixel) => {
      columns[column] = x.data[from + pixel];
    });
    gemm(out.data, g * o * h * w, weight.data, g * o * K, K, 1, columns, 0, o, K, h * w);
  }
}

function deconv([x, weight], out, settings) {
  const [I, O, kh, kw] = weight.shape;
  const [n, C, h, w] = x.shape;
  const [H, W] = out.shape.slice(2);
  const K = O * kh * kw;
  const i = I / settings.groups;
  for (let g = 0; g < settings.groups; g++) {
    const columns = new Float32Array(K * h * w);
    const to = g * O * H * W;
    gemm(columns, 0, weight.data, g * i * K, 1, K, x.data, g * i * h * w, K, i, h * w);
    patches(O, H, W, h, w, kh, kw, settings, (column, pixel) => {
      out.data[to + pixel] += columns[column];
    });
  }
}

function matmul([a, b], out) {
  const [M, K] = a.shape.slice(-2);
  const N = b.shape[b.shape.length - 1];
  const many = size(a.shape.slice(0, -2));
  for (let i = 0; i < many; i++)
    gemm(out.data, i * M * N, a.data, i * M * K, K, 1, b.data, i * K * N, M, K, N);
}

// Fills `out` with values of x: from `start` on, with the given strides along its dimensions.
function gather(x, out, steps, start = 0) {
  const shape = out.shape;
  const rank = shape.length;
  const index = new Array(rank).fill(0);
  for (let i = 0, from = start; i < out.data.length; i++) {
    out.data[i] = x.data[from];
    for (let d = rank - 1; d >= 0; d--) {
      from += steps[d];
      if (++index[d] < shape[d]) break;
      from -= steps[d] * shape[d];
      index[d] = 0;
    }
  }
}

// The strides of a row-major array.
const dense = (shape) => shape.map((_, i) => size(shape.slice(i + 1)));

function binary(f) {
  return ([a, b], out) => {
    const rank = out.shape.length;
    const n = out.data.length;
    const [p, q] = [a, b].map((v) => {
      if (v.data.length === n) return v.data;
      const repeated = { shape: out.shape, data: new Float32Array(n) };
      gather(v, repeated, strides(v.shape, rank));
      return repeated.data;
    });
    for (let i = 0; i < n; i++) out.data[i] = f(p[i], q[i]);
  };
}

const unary =
  (f) =>
  ([x], out, settings) => {
    for (let i = 0; i < out.data.length; i++) out.data[i] = f(x.data[i], settings);
  };

function reduce([x], out, settings) {
  const steps = strides(out.shape);
  const to = dense(out.shape);
  const shape = x.shape;
  const index = shape.map(() => 0);
  const max = settings.kind === "max";
  if (max) out.data.fill(-Infinity);
  for (let i = 0; i < x.data.length; i++) {
    let place = 0;
    for (let d = 0; d < shape.length; d++)
      place += settings.dims.includes(d) ? 0 : index[d] * to[d];
    if (max) out.data[place] = Math.max(out.data[place], x.data[i]);
    else out.data[place] += x.data[i];
    for (let d = shape.length - 1; d >= 0 && ++index[d] === shape[d]; d--) index[d] = 0;
  }
  if (settings.kind === "mean")
    for (let i = 0; i < out.data.length; i++) out.data[i] *= out.data.length / x.data.length;
}

function pool(max) {
  return ([x], out, settings) => {
    const [n, C, H, W] = x.shape;
    const [h, w] = out.shape.slice(2);
    const [kh, kw] = settings.kernel;
    const [sy, sx] = settings.stride;
    for (let c = 0; c < C; c++)
      for (let y = 0; y < h; y++)
        for (let z = 0; z < w; z++) {
          let found = max ? -Infinity : 0;
          for (let i = 0; i < kh; i++)
            for (let j = 0; j < kw; j++) {
              const v = x.data[(c * H + y * sy + i) * W + z * sx + j];
              found = max ? Math.max(found, v) : found + v / (kh * kw);
            }
          out.data[(c * h + y) * w + z] = found;
        }
  };
}

function resize(smooth) {
  return ([x], out) => {
    const [n, C, H, W] = x.shape;
    const [h, w] = out.shape.slice(2);
    const place = (i, from, to) => {
      if (!smooth) return [Math.floor((i * from) / to), 0, 0];
      const at = Math.max(0, ((i + 0.5) * from) / to - 0.5);
      const low = Math.floor(at);
      return [low, Math.min(low + 1, from - 1), at - low];
    };
    for (let c = 0; c < n * C; c++)
      for (let y = 0; y < h; y++) {
        const [y0, y1, ty] = place(y, H, h);
        const a = (c * H + y0) * W;
        const b = (c * H + y1) * W;
        for (let z = 0; z < w; z++) {
          const [x0, x1, tx] = place(z, W, w);
          const d = x.data;
          const top = d[a + x0] + (tx && tx * (d[a + x1] - d[a + x0]));
          out.data[(c * h + y) * w + z] =
            top + (ty && ty * (d[b + x0] + (tx && tx * (d[b + x1] - d[b + x0])) - top));
        }
      }
  };
}

// Rounds halves to even numbers, as torch does.
function halfEven(x) {
  const low = Math.floor(x);
  const rest = x - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

const OPS = {
  conv,
  deconv,
  matmul,
  reduce,
  maxpool: pool(true),
  avgpool: pool(false),
  nearest: resize(false),
  bilinear: resize(true),
  add: binary((a, b) => a + b),
  sub: binary((a, b) => a - b),
  mul: binary((a, b) => a * b),
  div: binary((a, b) => a / b),
  pow: binary(Math.pow),
  minimum: binary(Math.min),
  maximum: binary(Math.max),
  lt: binary((a, b) => +(a < b)),
  gt: binary((a, b) => +(a > b)),
  le: binary((a, b) => +(a <= b)),
  ge: binary((a, b) => +(a >= b)),
  eq: binary((a, b) => +(a === b)),
  relu: unary((v) => (v > 0 ? v : 0)),
  leaky: unary((v, settings) => (v > 0 ? v : settings.slope * v)),
  tanh: unary(Math.tanh),
  sigmoid: unary((v) => 1 / (1 + Math.exp(-v))),
  exp: unary(Math.exp),
  log: unary(Math.log),
  log1p: unary(Math.log1p),
  neg: unary((v) => -v),
  abs: unary(Math.abs),
  sqrt: unary(Math.sqrt),
  rsqrt: unary((v) => 1 / Math.sqrt(v)),
  floor: unary(Math.floor),
  round: unary(halfEven),
  clamp: unary((v, settings) =>
    Math.min(Math.max(v, settings.low ?? -Infinity), settings.high ?? Infinity),
  ),
  permute: ([x], out, settings) =>
    gather(
      x,
      out,
      settings.dims.map((d) => dense(x.shape)[d]),
    ),
  expand: ([x], out) => gather(x, out, strides(x.shape, out.shape.length)),
  slice: ([x], out, settings) => {
    const steps = dense(x.shape);
    const start = settings.start * steps[settings.dim];
    steps[settings.dim] *= settings.step;
    gather(x, out, steps, start);
  },
  cat: (parts, out, settings) => {
    const inner = size(out.shape.slice(settings.dim + 1));
    const row = out.shape[settings.dim] * inner;
    let start = 0;
    for (const part of parts) {
      const length = part.shape[settings.dim] * inner;
      for (let i = 0; i * row < out.data.length; i++)
        out.data.set(part.data.subarray(i * length, (i + 1) * length), i * row + start);
      start += length;
    }
  },
  rows: ([weight, index], out) => {
    const D = weight.shape[1];
    index.data.forEach((row, i) =>
      out.data.set(weight.data.subarray(row * D, (row + 1) * D), i * D),
    );
  },
  where: ([condition, a, b], out) => {
    const rank = out.shape.length;
    const [c, p, q] = [condition, a, b].map((v) => {
      const repeated = { shape: out.shape, data: new Float32Array(out.data.length) };
      gather(v, repeated, strides(v.shape, rank));
      return repeated.data;
    });
    for (let i = 0; i < c.length; i++) out.data[i] = c[i] ? p[i] : q[i];
  },
};

// A program as a function: its inputs are plain or typed arrays of numbers, its result is a
// Float32Array.
function load(program) {
  const weights = floats(program.weights);
  const known = {};
  let start = 0;
  for (const [number, scale] of program.constants) {
    const shape = program.shapes[number];
    const data = weights.slice(start, (start += size(shape)));
    if (scale !== 1) for (let i = 0; i < data.length; i++) data[i] *= scale;
    known[number] = { shape, data };
  }
  return (...inputs) => {
    const values = { ...known };
    program.inputs.forEach((number, i) => {
      values[number] = { shape: program.shapes[number], data: Float32Array.from(inputs[i]) };
    });
    for (const [name, from, to, settings] of program.ops) {
      const shape = program.shapes[to];
      const inputs = from.map((number) => values[number]);
      if (name === "view") {
        values[to] = { shape, data: inputs[0].data };
        continue;
      }
      values[to] = { shape, data: new Float32Array(size(shape)) };
      OPS[name](inputs, values[to], settings);
    }
    return values[program.output].data;
  };
}

if (typeof module !== "undefined") module.exports = { load, floats };
