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
        say("You are logged out, or may no longer see this page. Reload it.");
        return;
      }
      if (!answer.ok) throw new Error(`the site answers with status ${answer.status}`);
      show(await answer.text());
    } catch (error) {
      const why = error.name === "TimeoutError" ? "the site does not answer" : error.message;
      say(`These numbers are old: ${why}.`);
    } finally {
      isAsking = false;
    }
    timer = setTimeout(look, SECONDS * 1000);
  }

  function show(html) {
    // Whoever marks text to copy it keeps it.
    const marked = getSelection();
    const isMarking = !marked.isCollapsed && now.contains(marked.anchorNode);
    if (!isMarking) {
      const focused = now.contains(document.activeElement) ? document.activeElement.id : "";
      now.innerHTML = html; // escaped by the site's templates
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      remember();
      draw();
    }
    say(isMarking ? "Waits while text is marked." : "");
  }

  function say(text) {
    const shown = text || (isPaused ? "Paused." : "");
    if (state.textContent !== shown) state.textContent = shown;
  }

  function setPaused(wanted) {
    isPaused = wanted;
    pause.setAttribute("aria-pressed", String(wanted));
    pause.textContent = wanted ? "Go on" : "Pause";
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
