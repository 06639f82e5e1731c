// Reads the numbers anew every few seconds, and draws lines of the last minutes from what this
// tab has seen. The page is complete without it.
"use strict";

(() => {
  const now = document.getElementById("rb-now");
  if (!now) return;
  const state = document.getElementById("rb-state");
  const pause = document.getElementById("rb-pause");
  const SECONDS = Number(now.dataset.seconds);
  const MINUTES = 5;
  const KEPT = MINUTES * 60 * 1000;
  const STORE = "rb-admin-samples";
  const PATIENCE = 30 * 1000; // for the site itself; nodes have a shorter limit there
  const SVG = "http://www.w3.org/2000/svg";

  // By node: samples as {at, ops, memory, ...}, the oldest first.
  let samples = {};
  try {
    samples = JSON.parse(sessionStorage.getItem(STORE)) || {};
  } catch {
    samples = {};
  }

  function remember() {
    const at = Date.now();
    for (const node of now.querySelectorAll("[data-node]")) {
      const seen = (samples[node.dataset.node] ||= []);
      const before = seen.at(-1);
      const sample = { at, ...JSON.parse(node.dataset.sample) };
      sample.rate = shareOfHits(before, sample);
      seen.push(sample);
    }
    for (const [node, seen] of Object.entries(samples)) {
      samples[node] = seen.filter((sample) => at - sample.at < KEPT);
      if (!samples[node].length) delete samples[node];
    }
    try {
      sessionStorage.setItem(STORE, JSON.stringify(samples));
    } catch {
      // No room: the lines begin anew on the next page.
    }
  }

  function shareOfHits(before, sample) {
    if (!before || before.hits === null || sample.hits === null) return null;
    const hits = sample.hits - before.hits;
    const misses = sample.misses - before.misses;
    return hits >= 0 && misses >= 0 && hits + misses > 0 ? hits / (hits + misses) : null;
  }

  function draw() {
    const at = Date.now();
    for (const line of now.querySelectorAll("svg[data-line]")) {
      const name = line.dataset.line;
      const seen = samples[line.closest("[data-node]").dataset.node] || [];
      const values = seen.map((sample) => sample[name]).filter((value) => value !== null);
      line.setAttribute("viewBox", "0 0 100 20");
      line.setAttribute("preserveAspectRatio", "none");
      const high = name === "rate" ? 1 : Math.max(...values);
      const floor = document.createElementNS(SVG, "line");
      floor.setAttribute("x2", "100");
      floor.setAttribute("y1", "20");
      floor.setAttribute("y2", "20");
      const path = document.createElementNS(SVG, "path");
      let words = "";
      let lastAt = -Infinity; // nothing is drawn over times of which nobody knows
      for (const sample of seen) {
        if (sample[name] === null) {
          lastAt = -Infinity;
          continue;
        }
        const x = 100 - (100 * (at - sample.at)) / KEPT;
        const y = high ? 19 - (18 * sample[name]) / high : 19;
        const isNext = sample.at - lastAt < 4 * SECONDS * 1000;
        words += `${isNext ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`;
        if (!isNext) words += "h0";
        lastAt = sample.at;
      }
      path.setAttribute("d", words);
      line.replaceChildren(...(words ? [floor, path] : []));
    }
  }

  let isPaused = false;
  let timer = 0;
  let isAsking = false;

  async function look() {
    clearTimeout(timer);
    if (isPaused || document.hidden || isAsking) return;
    isAsking = true;
    try {
      const answer = await fetch("?now", { signal: AbortSignal.timeout(PATIENCE), redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 403) {
        setPaused(true);
        say("You are logged out, or no longer allowed to see this page. Reload it.");
        return;
      }
      if (!answer.ok) throw new Error(`the site answers with status ${answer.status}`);
      show(await answer.text());
    } catch (error) {
      const why = error.name === "TimeoutError" ? "the site does not answer" : error.message;
      say(`These numbers are out of date: ${why}.`);
    } finally {
      isAsking = false;
    }
    timer = setTimeout(look, SECONDS * 1000);
  }

  function show(html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html; // escaped by the site's templates
    alikeChildren(now, fresh.content);
    remember();
    draw();
    say("");
  }

  // What stays the same stays: focus, marked text, and what is being clicked.
  function alike(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
    } else if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
    } else {
      for (const { name, value } of fresh.attributes) {
        if (old.getAttribute(name) !== value) old.setAttribute(name, value);
      }
      if (old.dataset.line) return; // its content is drawn here
      for (const { name } of [...old.attributes]) {
        if (!fresh.hasAttribute(name)) old.removeAttribute(name);
      }
      alikeChildren(old, fresh);
    }
  }

  function alikeChildren(old, fresh) {
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    after.forEach((node, at) => (at < before.length ? alike(before[at], node) : old.append(node)));
    before.slice(after.length).forEach((node) => node.remove());
  }

  function say(text) {
    const shown = text || (isPaused ? "Paused." : "");
    if (state.textContent !== shown) state.textContent = shown;
  }

  function setPaused(wanted) {
    isPaused = wanted;
    pause.setAttribute("aria-pressed", String(wanted));
    pause.textContent = wanted ? "Resume" : "Pause";
    say("");
    if (wanted) clearTimeout(timer);
    else look();
  }

  pause.hidden = false;
  pause.addEventListener("click", () => setPaused(!isPaused));
  document.addEventListener("visibilitychange", look);
  remember();
  draw();
  say("");
  timer = setTimeout(look, SECONDS * 1000);
})();
