// Requests the attributor's figures every two seconds, and shows when they are out of date.
"use strict";
(function () {
  const EVERY_MS = 2000;
  const byId = function (id) { return document.getElementById(id); };
  const element = function (name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = function (value, unit) { return value === null || value === undefined ? "–" : value.toLocaleString("en") + (unit || ""); };
  const meter = function (percent) {
    const made = element("span", "meter");
    const fill = element("span", "meter-fill");
    fill.style.width = Math.min(100, percent) + "%";
    made.append(fill);
    return made;
  };
  const showStages = function (stages) {
    const timed = stages.filter(function (stage) { return stage.count > 0; });
    if (!timed.length) return;
    const longest = Math.max.apply(null, timed.map(function (stage) { return stage.mean_ms; }));
    byId("stages").replaceChildren.apply(byId("stages"), timed.map(function (stage) {
      const row = element("tr");
      const bars = element("td", "bars wide-only");
      bars.append(meter(100 * stage.mean_ms / longest));
      row.append(element("td", "", stage.stage), bars);
      [stage.mean_ms, stage.p50_ms, stage.p99_ms, stage.count].forEach(function (value) { row.append(element("td", "n", number(value))); });
      return row;
    }));
  };
  const showQuality = function (buckets) {
    const most = Math.max.apply(null, buckets.map(function (bucket) { return bucket[1]; }));
    if (!(most > 0)) return;
    byId("quality-bars").replaceChildren.apply(byId("quality-bars"), buckets.map(function (bucket) {
      const row = element("div", "histogram-row");
      row.append(element("span", "muted small", bucket[0]), meter(100 * bucket[1] / most), element("span", "small num", number(bucket[1])));
      return row;
    }));
  };
  const showReasons = function (refusals) {
    if (!refusals.length) return;
    byId("reasons").replaceChildren.apply(byId("reasons"), refusals.map(function (refusal) {
      const row = element("tr");
      row.append(element("td", "", refusal.reason), element("td", "n", number(refusal.count)));
      return row;
    }));
  };
  const showStatus = function (on, problem) {
    byId("live").className = "live " + (on ? "on" : "off");
    byId("live-text").textContent = on ? "Live" : "No figures";
    byId("banner").hidden = !problem;
    byId("banner").textContent = problem;
  };
  const show = function (figures) {
    byId("images_per_minute").textContent = figures.images_per_minute;
    showStatus(figures.known, figures.problem);
    if (!figures.known) return;
    byId("in_flight").textContent = number(figures.in_flight);
    byId("waiting").textContent = number(figures.waiting);
    byId("refused").textContent = number(figures.refused);
    const total = figures.stages.find(function (stage) { return stage.stage === "total"; });
    byId("total_p99").textContent = number(total && total.p99_ms, " ms");
    byId("recall").textContent = figures.recall.length ? figures.recall.map(function (row) { return row.recall; }).join(", ") : "–";
    byId("recall").title = figures.recall.length ? "" : "Not measured: run gmvaluator index verify";
    showStages(figures.stages);
    showQuality(figures.quality);
    showReasons(figures.refusals);
  };
  const request = function () {
    fetch("/operations/data", { headers: { accept: "application/json" } }).then(function (response) {
      if (!response.ok) throw new Error(String(response.status));
      return response.json();
    }).then(show).catch(function () { showStatus(false, "Disconnected: the figures below are out of date. Trying again."); });
  };
  show(JSON.parse(byId("state").textContent));
  setInterval(request, EVERY_MS);
})();
