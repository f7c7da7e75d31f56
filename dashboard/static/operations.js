// Asks for the attributor's figures every two seconds, and says when they are old.
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
    const timed = stages.filter(function (one) { return one.count > 0; });
    if (!timed.length) return;
    const longest = Math.max.apply(null, timed.map(function (one) { return one.mean_ms; }));
    byId("stages").replaceChildren.apply(byId("stages"), timed.map(function (one) {
      const row = element("tr");
      const bars = element("td", "bars wide-only");
      bars.append(meter(100 * one.mean_ms / longest));
      row.append(element("td", "", one.stage), bars);
      [one.mean_ms, one.p50_ms, one.p99_ms, one.count].forEach(function (value) { row.append(element("td", "n", number(value))); });
      return row;
    }));
  };
  const showQuality = function (buckets) {
    const most = Math.max.apply(null, buckets.map(function (one) { return one[1]; }));
    if (!(most > 0)) return;
    byId("quality-bars").replaceChildren.apply(byId("quality-bars"), buckets.map(function (one) {
      const row = element("div", "histogram-row");
      row.append(element("span", "muted small", one[0]), meter(100 * one[1] / most), element("span", "small num", number(one[1])));
      return row;
    }));
  };
  const showReasons = function (refusals) {
    if (!refusals.length) return;
    byId("reasons").replaceChildren.apply(byId("reasons"), refusals.map(function (one) {
      const row = element("tr");
      row.append(element("td", "", one.reason), element("td", "n", number(one.count)));
      return row;
    }));
  };
  const say = function (on, problem) {
    byId("live").className = "live " + (on ? "on" : "off");
    byId("live-text").textContent = on ? "Live" : "No figures";
    byId("banner").hidden = !problem;
    byId("banner").textContent = problem;
  };
  const show = function (found) {
    byId("images_per_minute").textContent = found.images_per_minute;
    say(found.known, found.problem);
    if (!found.known) return;
    byId("in_flight").textContent = number(found.in_flight);
    byId("waiting").textContent = number(found.waiting);
    byId("refused").textContent = number(found.refused);
    const total = found.stages.find(function (one) { return one.stage === "total"; });
    byId("total_p99").textContent = number(total && total.p99_ms, " ms");
    byId("recall").textContent = found.recall.length ? found.recall.map(function (one) { return one.recall; }).join(", ") : "–";
    byId("recall").title = found.recall.length ? "" : "Not measured: run gmvaluator index verify";
    showStages(found.stages);
    showQuality(found.quality);
    showReasons(found.refusals);
  };
  const ask = function () {
    fetch("/operations/data", { headers: { accept: "application/json" } }).then(function (response) {
      if (!response.ok) throw new Error(String(response.status));
      return response.json();
    }).then(show).catch(function () { say(false, "Disconnected: the figures below are old. Trying again."); });
  };
  show(JSON.parse(byId("state").textContent));
  setInterval(ask, EVERY_MS);
})();
