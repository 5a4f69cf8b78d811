// Runs the network beside the page, which stays usable meanwhile.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { fitted, withoutAlpha } from "./resize.js";

let page;
let session;

async function download(address, bytes) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  const reader = answer.body.getReader();
  const content = new Uint8Array(bytes);
  let got = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (got + value.length > bytes) throw new Error(`${address} is larger than page.json says`);
    content.set(value, got);
    got += value.length;
    postMessage({ kind: "loading", share: got / bytes });
  }
  if (got !== bytes) throw new Error(`${address} is ${got} bytes, expected ${bytes}`);
  return content;
}

async function start() {
  page = await (await fetch("page.json")).json();
  postMessage({ kind: "page", page });
  ort.env.wasm.wasmPaths = new URL("runtime/", self.location.href).href;
  // Threads share memory, which browsers allow where the server sends two headers; see docs/web.md.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const content = await download("model.onnx", page.bytes);
  session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  postMessage({ kind: "ready", threads: ort.env.wasm.numThreads });
}

function tensor({ data, width, height }) {
  const channels = page.mean.length;
  if (!page.input.normalized) return new ort.Tensor("uint8", new Uint8Array(data), [1, height, width, channels]);
  const values = new Float32Array(data.length);
  const area = width * height;
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < area; i++) values[c * area + i] = (data[i * channels + c] / 255 - page.mean[c]) / page.std[c];
  }
  return new ort.Tensor("float32", values, [1, channels, height, width]);
}

function probabilities(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Array.from(logits, (value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

async function look({ number, image }) {
  const started = performance.now();
  const given = fitted(withoutAlpha(image, page.mean.length), page);
  const prepared = performance.now();
  const result = (await session.run({ [page.input.name]: tensor(given) }))[page.outputs[0]];
  const times = { preparing: prepared - started, network: performance.now() - prepared };
  const answer = { kind: "answer", number, times, place: given.place };
  if (page.task === "segmentation") {
    answer.classes = Uint8Array.from(result.data, Number);
  } else {
    answer.logits = Array.from(result.data);
    answer.probabilities = probabilities(result.data);
  }
  postMessage(answer);
}

self.addEventListener("message", async ({ data }) => {
  try {
    await look(data);
  } catch (error) {
    postMessage({ kind: "error", number: data.number, text: String(error.message || error) });
  }
});

start().catch((error) => postMessage({ kind: "error", text: String(error.message || error) }));
