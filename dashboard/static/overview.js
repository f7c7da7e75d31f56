// Keeps the overview as the ledger is. Each message holds whole amounts, so nothing is ever added up here.
"use strict";
(function () {
  const STALE_MS = 6000;
  const MAX_CARDS = 6;
  const MAX_POINTS = 260;
  const byId = function (id) { return document.getElementById(id); };
  const state = JSON.parse(byId("state").textContent);
  let points = state.chart.points;
  let series = state.chart.series;
  let heardAt = Date.now();
  let chart = null;
  const hidesGenerated = "hideGenerated" in document.body.dataset;

  const element = function (name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const fillAmount = function (target, text) {
    const dot = text.indexOf(".");
    const key = target.dataset.shown;
    if (key === text) return;
    target.dataset.shown = text;
    target.textContent = text.slice(0, dot + 3);
    target.append(element("span", "fine", text.slice(dot + 3)));
  };
  const bar = function (percent) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("class", "bar owner");
    svg.setAttribute("viewBox", "0 0 100 1");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    [["track", 100], ["fill", percent]].forEach(function (part) {
      const rect = document.createElementNS(space, "rect");
      rect.setAttribute("class", part[0]);
      rect.setAttribute("width", part[1]);
      rect.setAttribute("height", "1");
      svg.append(rect);
    });
    return svg;
  };
  const thumb = function (src, alt, size) {
    if (!src) {
      const none = element("span", "thumb none " + size);
      none.setAttribute("role", "img");
      none.setAttribute("aria-label", alt + ": no picture is kept");
      return none;
    }
    const image = element("img", "thumb " + size);
    image.src = src;
    image.alt = alt;
    image.decoding = "async";
    return image;
  };

  // --- figures -----------------------------------------------------------------------------------------------------
  const showFigures = function (next) {
    document.querySelectorAll("[data-total]").forEach(function (one) { fillAmount(one, next.totals[one.dataset.total]); });
    document.querySelectorAll("[data-share]").forEach(function (one) { one.textContent = next.shares[one.dataset.share]; });
    document.querySelectorAll("[data-field]").forEach(function (one) { one.textContent = next[one.dataset.field]; });
    byId("check").classList.toggle("good", next.reconciles);
    byId("check").classList.toggle("bad", !next.reconciles);
    byId("verdict").textContent = next.reconciles ? "Adds up" : "Does not add up: run gmvaluator ledger verify";
    if (next.sequence > 0 && byId("empty")) {
      byId("empty").remove();
      byId("body").hidden = false;
      if (chart) chart.resize();
    }
  };

  // --- leaders: rows are kept and moved, so that a change of place can be seen ---------------------------------------
  const leaderRow = function (one) {
    const row = element("li");
    row.dataset.owner = one.owner_id;
    const link = element("a");
    link.href = "/owners/" + encodeURIComponent(one.owner_id);
    link.append(element("span", "name", one.name), element("span", "num"), bar(one.bar));
    row.append(link);
    return row;
  };
  const showLeaders = function (leaders) {
    const list = byId("leaders");
    if (!list) return;
    const before = new Map();
    Array.from(list.children).forEach(function (row) { before.set(row.dataset.owner, row); });
    const tops = new Map();
    before.forEach(function (row, owner) { tops.set(owner, row.offsetTop); });
    leaders.forEach(function (one, place) {
      const row = before.get(one.owner_id) || leaderRow(one);
      before.delete(one.owner_id);
      fillAmount(row.querySelector(".num"), one.credits);
      row.querySelector(".name").textContent = one.name;
      row.querySelector(".fill").setAttribute("width", one.bar);
      if (list.children[place] !== row) list.insertBefore(row, list.children[place] || null);
    });
    before.forEach(function (row) { row.remove(); });
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    Array.from(list.children).forEach(function (row) {
      const moved = (tops.get(row.dataset.owner) || row.offsetTop) - row.offsetTop;
      if (moved) row.animate([{ transform: "translateY(" + moved + "px)" }, { transform: "none" }], { duration: 300, easing: "ease-out" });
    });
  };

  // --- feed ----------------------------------------------------------------------------------------------------------
  const sourceRow = function (one) {
    const row = element("li");
    const link = element("a");
    link.href = "/works/" + encodeURIComponent(one.work_id);
    const who = element("span", "who");
    const figures = element("span", "muted figures");
    const distance = element("span", "", "d " + one.distance.slice(0, 6));
    distance.title = "Distance: lower is nearer";
    figures.append(element("span", "", one.share), distance);
    who.append(element("span", "artist", one.artist), bar(one.share_percent), figures);
    link.append(thumb(one.picture, one.title, ""), who);
    row.append(link);
    return row;
  };
  const card = function (one) {
    const row = element("li", "generated fresh");
    row.dataset.sequence = one.sequence;
    const made = element("a", "made");
    made.href = "/generations/" + one.sequence;
    made.setAttribute("aria-label", "Generated image, posting " + one.sequence + ": how its credit was divided");
    made.append(thumb(hidesGenerated ? null : one.picture, "Generated image", "large"));
    const about = element("div", "about");
    const first = element("p", "line");
    const number = element("a", "", "No. " + one.sequence);
    number.href = made.href;
    first.append(number, " ", element("span", "muted", one.posted_at));
    const second = element("p", "line muted", "quality " + one.quality + " → ");
    const amount = element("strong");
    fillAmount(amount, one.issued);
    second.append(amount, " credits");
    about.append(first, second);
    const sources = element("ol", "sources");
    one.contributors.forEach(function (each) { sources.append(sourceRow(each)); });
    const rest = element("li", "rest");
    rest.append(element("span", "muted", (one.more ? "and " + one.more + " more · " : "") + "nobody " + one.unattributed_share));
    sources.append(rest);
    row.append(made, about, sources);
    return row;
  };
  const showFeed = function (cards, whole) {
    const list = byId("feed");
    if (!list) return;
    if (whole) list.replaceChildren();
    cards.slice().sort(function (a, b) { return a.sequence - b.sequence; }).forEach(function (one) {
      if (!list.querySelector('[data-sequence="' + Number(one.sequence) + '"]')) list.prepend(card(one));
    });
    while (list.children.length > MAX_CARDS) list.lastElementChild.remove();
  };

  // --- chart ---------------------------------------------------------------------------------------------------------
  const colour = function (name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); };
  const options = function () {
    const ink = colour("--muted"), line = colour("--line");
    const bands = series.map(function (name, index) {
      const last = series.length - index;
      const own = last > 3 ? colour("--series-" + (index + 1)) : [colour("--waiting"), colour("--nobody"), colour("--others")][last - 1];
      return {
        name: name, type: "line", stack: "credits", symbol: "none", lineStyle: { width: 0 }, areaStyle: { color: own, opacity: 1 },
        itemStyle: { color: own }, data: points.map(function (point) { return [point[0], point[index + 1]]; }), emphasis: { disabled: true },
      };
    });
    return {
      animation: false, aria: { enabled: true }, textStyle: { fontFamily: "Inter, sans-serif" },
      grid: { left: 4, right: 12, top: 12, bottom: 4, containLabel: true },
      legend: { show: false },
      tooltip: {
        trigger: "axis", renderMode: "richText", order: "seriesDesc", backgroundColor: colour("--surface"), borderColor: line,
        textStyle: { color: colour("--ink"), fontSize: 12 },
        valueFormatter: function (value) { return Number(value).toFixed(3); },
      },
      xAxis: { type: "time", axisLine: { lineStyle: { color: line } }, axisLabel: { color: ink, hideOverlap: true }, splitLine: { show: false } },
      yAxis: { type: "value", axisLabel: { color: ink }, splitLine: { lineStyle: { color: line } } },
      series: bands,
    };
  };
  const drawChart = function (fresh) {
    const host = byId("chart");
    if (!host || !window.echarts || host.offsetWidth === 0) return;
    if (!chart) {
      host.replaceChildren();
      chart = window.echarts.init(host, null, { renderer: "canvas" });
    }
    chart.setOption(options(), { replaceMerge: fresh ? ["series"] : undefined });
  };
  const showLegend = function () {
    const list = byId("legend");
    if (!list) return;
    list.replaceChildren.apply(list, series.map(function (name, index) {
      const last = series.length - index;
      const row = element("li");
      row.append(element("span", "swatch " + (last > 3 ? "s" + (index + 1) : ["waiting", "nobody", "others"][last - 1])), element("span", "", name));
      return row;
    }));
  };
  const showChart = function (next, whole) {
    if (whole || next.chart_whole) {
      points = next.chart.points;
    } else if (next.chart.points.length) {
      const since = next.chart.points[0][0];
      points = points.filter(function (point) { return point[0] < since; }).concat(next.chart.points).slice(-MAX_POINTS);
    }
    const changed = whole || series.join("\n") !== next.chart.series.join("\n");
    series = next.chart.series;
    drawChart(changed);
    if (changed) showLegend();
  };

  // --- the stream ----------------------------------------------------------------------------------------------------
  const say = function (kind, text, banner) {
    byId("live").className = "live " + kind;
    if (byId("live-text").textContent !== text) byId("live-text").textContent = text;
    byId("banner").hidden = !banner;
    if (banner && byId("banner").textContent !== banner) byId("banner").textContent = banner;
  };
  const receive = function (event) {
    const next = JSON.parse(event.data);
    heardAt = Date.now();
    say("on", "Live", "");
    showFigures(next);
    showLeaders(next.leaders);
    showFeed(next.feed, next.whole);
    showChart(next, next.whole);
  };
  const lost = function () {
    say("off", "Disconnected", "Disconnected. These figures are as of posting " + byId("sequence").textContent + "; trying again.");
  };
  const connect = function () {
    const stream = new EventSource("/live/overview");
    stream.addEventListener("overview", receive);
    stream.onerror = function () {
      if (stream.readyState !== EventSource.CLOSED) { lost(); return; }
      say("off", "Disconnected", "Disconnected, and the server does not take us back as we are. Load the page again to sign in; trying again.");
      setTimeout(connect, 5000);
    };
  };
  setInterval(function () { if (Date.now() - heardAt > STALE_MS) lost(); }, 1000);
  window.addEventListener("resize", function () { if (chart) chart.resize(); });
  window.addEventListener("themechange", function () { if (chart) drawChart(true); });
  drawChart(true);
  showLegend();
  connect();
})();
