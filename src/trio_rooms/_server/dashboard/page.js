
// Asks /stats each second and shows what it is told. All of it is put into the page as text: a room's id is
// whatever a stranger wrote into an address.

const PAUSE = 1000; // Milliseconds between two questions.
const PATIENCE = 5000; // Milliseconds until a question counts as unanswered.
const SHORTEST = 60; // Seconds that the charts show at first,
const LONGEST = 600; // and at most; nothing older is kept.
const SVG = "http://www.w3.org/2000/svg";
const [WIDE, HIGH] = [600, 120];
const NONE = "–";

// Numbers as people read them.

const counted = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const exact = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with the largest of some units that it has one of. */
function scaled(value, units) {
  const [size, unit] = units.find(([size]) => Math.abs(value) >= size) ?? units.at(-1);
  return value === 0 ? `0 ${unit}` : `${exact.format(value / size)} ${unit}`;
}

const SHOWN = {
  count: (value) => counted.format(value),
  target: (value) => (value === 0 ? "any" : SHOWN.share(value)),
  share: (value) => `${counted.format(100 * value)}%`,
  bytes: (value) => scaled(value, [[1e9, "GB"], [1e6, "MB"], [1e3, "KB"], [1, "B"]]),
  seconds: (value) => scaled(value, [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]]),
};
const show = (value, as = "count") => {
  if (as === "text") return value ? String(value) : "none";
  return known(value) ? SHOWN[as](value) : NONE;
};

// The document.

/** An element with a class and a text. */
function made(name, kind = "", text = "") {
  const element = document.createElement(name);
  if (kind) element.className = kind;
  element.textContent = text;
  return element;
}

/** Give an element a text, unless it has it: what is selected stays so. */
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a value in a <data>, whose attribute has it as the server told it. */
function put(element, value) {
  element.value = value ?? "";
  say(element, show(value, element.dataset.as));
}

/** Make a list's items as many as there are things, and fill each. */
function fill(list, things, make, update) {
  while (list.children.length > things.length) list.lastElementChild.remove();
  while (list.children.length < things.length) list.append(make());
  things.forEach((thing, index) => update(list.children[index], thing));
}

const at = (told, path) => path.split(".").reduce((inner, name) => inner?.[name], told);

// Charts.

const LEAST = { count: 10, bytes: 1e6, seconds: 1e-3 }; // What a chart reaches to at least.

/** The least 1, 2 or 5 with zeros that is as large as a value. */
function ceiling(value, least) {
  const size = 10 ** Math.floor(Math.log10(Math.max(value, least)));
  return [1, 2, 5, 10].map((step) => step * size).find((top) => top >= value) ?? 10 * size;
}

class Chart {
  /**
   * @param id of its figure.
   * @param title what it is of.
   * @param as how its values are shown.
   * @param series the lines, from the bottom up: [name, kind, the sample's value].
   * @param stacked whether they are areas on each other.
   */
  constructor(id, title, as, series, stacked = false) {
    this.as = as;
    this.series = series;
    this.stacked = stacked;
    this.cursor = null; // Where the pointer is, as a share of the width.
    const caption = made("figcaption");
    caption.append(made("b", "", title));
    this.legend = series.map(([name, kind]) => {
      const item = made("span");
      item.append(made("i", kind), `${name} `, made("data"));
      caption.append(item);
      return item.lastElementChild;
    });
    const plot = made("div", "plot");
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", `${title}, over time`);
    for (const y of [0, HIGH / 2, HIGH]) this.draw("line", "axis", { x1: 0, x2: WIDE, y1: y, y2: y });
    this.paths = series.map(([, kind]) => this.draw("path", stacked ? `area ${kind}` : kind, {}));
    this.mark = this.draw("line", "cursor", { y1: 0, y2: HIGH });
    [this.top, this.when] = [made("span"), made("span", "at")];
    plot.append(this.svg, this.top, this.when);
    this.since = made("span");
    const ends = made("div", "ends");
    ends.append(this.since, made("span", "", "now"));
    document.getElementById(id).append(caption, plot, ends);
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      this.point((event.clientX - box.left) / box.width);
    });
    plot.addEventListener("pointerleave", () => this.point(null));
  }

  draw(name, kind, attributes) {
    const element = document.createElementNS(SVG, name);
    element.setAttribute("class", kind);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    this.svg.append(element);
    return element;
  }

  point(cursor) {
    this.cursor = cursor;
    if (this.samples) this.update(this.samples, this.now);
  }

  update(samples, now) {
    [this.samples, this.now] = [samples, now];
    const span = Math.min(Math.max(now - samples[0].time, SHORTEST), LONGEST);
    const x = (sample) => WIDE * (1 - (now - sample.time) / span);
    const values = samples.map((sample) => this.series.map(([, , value]) => value(sample)));
    const heights = values.map((row) => row.reduce((sums, value) => {
      const below = this.stacked ? sums.at(-1) ?? 0 : 0;
      return [...sums, known(value) ? below + value : this.stacked ? below : null];
    }, []));
    const some = heights.some((row) => row.some(known));
    const top = ceiling(Math.max(0, ...heights.flat()), LEAST[this.as]);
    const y = (height) => HIGH * (1 - height / top);
    this.paths.forEach((path, index) => {
      let [drawn, last] = ["", null];
      samples.forEach((sample, i) => {
        const height = heights[i][index];
        if (height === null) return;
        drawn += `${drawn ? "L" : "M"}${x(sample).toFixed(1)},${y(height).toFixed(1)}`;
        last = sample;
      });
      if (this.stacked && drawn) {
        for (let i = samples.length - 1; i >= 0; i--) {
          drawn += `L${x(samples[i]).toFixed(1)},${y(index ? heights[i][index - 1] : 0).toFixed(1)}`;
        }
        drawn += "Z";
      } else if (drawn && last === samples[0]) drawn += "h0.1"; // A line of one point is not seen.
      path.setAttribute("d", drawn);
    });
    let chosen = samples.length - 1;
    if (this.cursor !== null) {
      const time = now - span * (1 - this.cursor);
      const distance = (sample) => Math.abs(sample.time - time);
      chosen = samples.reduce((best, one, i) => (distance(one) < distance(samples[best]) ? i : best), 0);
      this.mark.setAttribute("x1", x(samples[chosen]));
      this.mark.setAttribute("x2", x(samples[chosen]));
    }
    this.mark.style.visibility = this.cursor === null ? "hidden" : "visible";
    const ago = now - samples[chosen].time;
    say(this.when, this.cursor === null || ago < 1 ? "" : `${show(Math.round(ago))} s ago`);
    this.legend.forEach((item, index) => {
      const value = values[chosen][index];
      item.value = value ?? "";
      say(item, show(value, this.as));
    });
    say(this.top, some ? show(top, this.as) : "nothing yet");
    say(this.since, span < 120 ? `${Math.round(span)} s ago` : `${Math.round(span / 60)} min ago`);
  }
}

const CHARTS = [
  new Chart("chart-connections", "Connections", "count", [
    ["hibernated", "sleep", (sample) => sample.hibernated],
    ["active", "wake", (sample) => sample.active],
  ], true),
  new Chart("chart-rates", "Wakes and sleeps, each second", "count", [
    ["sleeps", "sleep", (sample) => sample.sleepRate],
    ["wakes", "wake", (sample) => sample.wakeRate],
  ]),
  new Chart("chart-rooms", "Rooms awake", "count", [["awake", "wake", (sample) => sample.awake]]),
  new Chart("chart-memory", "Memory", "bytes", [["resident", "sleep", (sample) => sample.resident]]),
  new Chart("chart-latency", "How long a wake takes", "seconds", [
    ["mean", "wake", (sample) => sample.wakeTime],
  ]),
  new Chart("chart-lag", "How late the event loop is", "seconds", [
    ["mean", "wake", (sample) => sample.lag],
  ]),
];

// What was told, in the order in which it came.

const total = (counts) => Object.values(counts ?? {}).reduce((sum, one) => sum + one, 0);

/** The mean of what was measured between two summaries; null where nothing was. */
function between(before, after) {
  const count = (after?.count ?? 0) - (before?.count ?? 0);
  if (count <= 0) return null;
  return Math.max(0, (after.count * after.mean - (before?.count ? before.count * before.mean : 0)) / count);
}

const samples = [];
let last = null;

function sample(told, time) {
  const life = told.hibernation ?? {};
  if (last !== null && total(life.wakes) < total(last.life.wakes)) {
    samples.length = 0; // Another server answers, which counts from nothing.
    last = null;
  }
  const seconds = last === null ? 1 : time - last.time;
  const rate = (of) => (last === null ? 0 : Math.max(0, total(life[of]) - total(last.life[of])) / seconds);
  const mean = (of) => (last === null ? null : between(last.life[of], life[of]));
  samples.push({
    time,
    active: life.connections?.active,
    hibernated: life.connections?.hibernated,
    awake: life.rooms?.awake,
    resident: life.bytes?.resident,
    wakeRate: rate("wakes"),
    sleepRate: rate("sleeps"),
    wakeTime: mean("wake_latency_seconds"),
    lag: mean("loop_lag_seconds"),
  });
  while (samples[0].time < time - LONGEST) samples.shift();
  last = { time, life };
}

// Lists and tables.

/** Counts by name, the largest first. */
function bars(id, counts) {
  const things = Object.entries(counts ?? {}).filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a);
  const most = things[0]?.[1] ?? 1;
  const none = things.length ? [] : [["none yet", null]];
  fill(document.getElementById(id), [...things, ...none], () => {
    const item = made("li");
    item.append(made("span"), made("data"), made("meter"));
    return item;
  }, (item, [name, count]) => {
    const [label, value, meter] = item.children;
    say(label, name);
    value.value = count ?? "";
    say(value, count === null ? "" : show(count));
    meter.max = most;
    meter.value = count ?? 0;
    meter.hidden = count === null;
  });
}

/** Rows of a table, each an array of texts. */
function rows(id, kinds, texts) {
  const cells = () => kinds.map((kind) => made("td", kind));
  fill(document.querySelector(`#${id} tbody`), texts, () => {
    const row = made("tr");
    row.append(...cells());
    return row;
  }, (row, row_texts) => row_texts.forEach((text, index) => say(row.children[index], text)));
}

const LATENCIES = [
  ["a message until the room that slept handles it", "wake_latency_seconds"],
  ["of that, reading the room's state", "state_restoration_seconds"],
  ["falling asleep", "hibernation_latency_seconds"],
  ["being asleep", "hibernation_duration_seconds"],
  ["delivery to active connections", "delivery_delay_seconds.active"],
  ["delivery to hibernated connections", "delivery_delay_seconds.hibernated"],
  ["the event loop is late by", "loop_lag_seconds"],
];

/** Why a room is awake, a line for each reason. */
const because = (reasons) => (reasons ?? []).map(({ reason, for_seconds, until }) => (
  `${reason}, for ${show(for_seconds, "seconds")}; until: ${until}`)).join("\n");

function tables(told) {
  const life = told.hibernation ?? {};
  bars("wakes", life.wakes);
  bars("sleeps", life.sleeps);
  bars("blocked", life.blocked);
  bars("antipatterns", life.antipatterns);
  bars("sweeps", life.sweeps);
  const rooms = (told.costliest ?? []).map((room) => [
    room.key, show(room.connections), show(room.active), show(room.messages), because(room.reasons),
  ]);
  const none = [told.costliest ? "no room is awake" : "which rooms there are is not told", "", "", "", ""];
  rows("costliest", ["", "n", "n", "n", "because"], rooms.length ? rooms : [none]);
  rows("latencies", ["", "n", "n", "n", "n", "n", "n"], LATENCIES.map(([name, path]) => {
    const summary = at(life, path) ?? {};
    const times = ["mean", "p50", "p95", "p99", "max"].map((one) => show(summary[one], "seconds"));
    return [name, show(summary.count), ...(summary.count ? times : times.map(() => NONE))];
  }));
  const advice = (told.recommendations ?? []).map(({ rule, message }) => `${rule}: ${message}`);
  fill(document.getElementById("recommendations"), advice.length ? advice : ["none"], () => made("li"), say);
}

// Asking.

const status = document.getElementById("status");
let answered = performance.now();

function shown(told) {
  const now = performance.now() / 1000;
  for (const element of document.querySelectorAll("[data-path]")) put(element, at(told, element.dataset.path));
  const { bytes, connections } = told.hibernation ?? {};
  const each = known(bytes?.resident) && connections?.total ? bytes.resident / connections.total : null;
  put(document.getElementById("per-connection"), each);
  sample(told, now);
  for (const chart of CHARTS) chart.update(samples, now);
  tables(told);
}

async function ask() {
  try {
    const answer = await fetch("stats", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    shown(await answer.json());
    answered = performance.now();
    status.className = "";
    say(status, "live");
  } catch (error) {
    status.className = "bad";
    say(status, `no answer for ${Math.round((performance.now() - answered) / 1000)} s: ${error.message}`);
  }
  setTimeout(ask, PAUSE);
}

say(document.getElementById("host"), location.host);
document.title = `trio-rooms ${location.host}`;
ask();
