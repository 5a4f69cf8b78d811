// What the visitor sees: an image from a file, the clipboard or the camera, and what the network says about it.

const TOP = 5;
const LARGEST_SIDE = 4096; // pixels; larger images are shrunk by the browser
const element = (id) => document.getElementById(id);
const worker = new Worker("worker.js", { type: "module" });

let page;
let ready = false;
let waiting = null; // the image that came before the network was there
let number = 0;
let camera = null;

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", wrong);
}

function describe() {
  document.title = `${page.model} in the browser`;
  element("title").textContent = page.model;
  const [height, width] = page.size;
  const megabytes = (page.bytes / 1e6).toFixed(1);
  element("facts").textContent =
    `${page.task}, ${page.classes.length} classes, ${width} x ${height} pixels, ${megabytes} MB, onnxruntime-web`;
  element("opacity").hidden = page.task !== "segmentation";
}

function draw(image) {
  const picture = element("picture");
  [picture.width, picture.height] = [image.width, image.height];
  picture.getContext("2d").putImageData(image, 0, 0);
  picture.classList.toggle("small", image.width < 320 && image.height <= image.width);
  picture.hidden = false;
  element("invitation").hidden = true;
  element("drop").classList.add("filled");
}

function pixels(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

async function open(file) {
  stopCamera();
  if (file.type === "image/svg+xml") return say(`${file.name}: SVG files are not looked at`, true);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    return say(`${file.name} is not an image that this browser can decode`, true);
  }
  const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  show(pixels(bitmap, Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale))));
  bitmap.close();
}

function show(image) {
  draw(image);
  element("overlay").hidden = true;
  if (!ready) {
    waiting = image;
    return;
  }
  if (!camera) say("Looking …");
  number += 1;
  worker.postMessage({ number, image });
}

function entry(name, share, color) {
  const item = document.createElement("li");
  const parts = ["name", "number", "track"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  });
  const percent = `${(100 * share).toFixed(1)} %`;
  [parts[0].textContent, parts[1].textContent] = [name, percent];
  const bar = document.createElement("span");
  bar.style.width = `${100 * share}%`;
  if (color) bar.style.background = `rgb(${color.join(",")})`;
  parts[2].append(bar);
  item.append(...parts);
  return item;
}

function showClasses(shares) {
  const best = shares.map((share, index) => [share, index]).sort((a, b) => b[0] - a[0]);
  const most = page.task === "segmentation" ? 12 : TOP;
  const shown = best.filter(([share]) => share > 0).slice(0, most);
  const items = shown.map(([share, index]) => entry(page.classes[index], share, page.palette[index]));
  element("entries").replaceChildren(...items);
}

// The part of the class map that is the image, in the classes' colors.
function showMap({ classes, place }) {
  const [height, width] = page.size;
  const rows = Math.min(place.height, height);
  const columns = Math.min(place.width, width);
  const counts = new Array(page.classes.length).fill(0);
  const colored = new ImageData(columns, rows);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const index = classes[(y + Math.max(0, place.top)) * width + x + Math.max(0, place.left)];
      counts[index] += 1;
      colored.data.set([...page.palette[index], 255], 4 * (y * columns + x));
    }
  }
  const overlay = element("overlay");
  [overlay.width, overlay.height] = [columns, rows];
  overlay.getContext("2d").putImageData(colored, 0, 0);
  overlay.hidden = false;
  return counts.map((count) => count / (rows * columns));
}

function answered(answer) {
  if (answer.number !== number) return;
  const shares = page.task === "segmentation" ? showMap(answer) : answer.probabilities;
  showClasses(shares);
  say(`${answer.times.network.toFixed(0)} ms in this browser`);
  window.a2mambaResult = { ...answer, shares };
  if (camera) requestAnimationFrame(frame);
}

async function startCamera() {
  const video = element("video");
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    return say(`no camera: ${error.message}`, true);
  }
  video.srcObject = camera;
  await video.play();
  element("camera").setAttribute("aria-pressed", "true");
  frame();
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  element("camera").setAttribute("aria-pressed", "false");
}

function frame() {
  const video = element("video");
  if (camera) show(pixels(video, video.videoWidth, video.videoHeight));
}

worker.addEventListener("message", ({ data }) => {
  if (data.kind === "page") {
    page = data.page;
    describe();
  } else if (data.kind === "loading") {
    element("loading").value = data.share;
  } else if (data.kind === "ready") {
    ready = true;
    element("loading").hidden = true;
    element("camera").disabled = !navigator.mediaDevices;
    element("facts").textContent += `, ${data.threads} thread${data.threads > 1 ? "s" : ""}`;
    say("Ready");
    window.a2mambaReady = true;
    if (waiting) show(waiting);
  } else if (data.kind === "answer") {
    answered(data);
  } else {
    element("loading").hidden = true;
    say(data.text, true);
  }
});
worker.addEventListener("error", (event) => say(event.message || "the network cannot be loaded", true));

element("file").addEventListener("change", ({ target }) => target.files[0] && open(target.files[0]));
element("camera").addEventListener("click", () => (camera ? stopCamera() : startCamera()));
element("strength").addEventListener("input", ({ target }) => {
  element("overlay").style.opacity = target.value / 100;
});
element("overlay").style.opacity = element("strength").value / 100;
const drop = element("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => event.clipboardData.files.length && open(event.clipboardData.files[0]));
