// Updates the overview from server-sent events. Each message holds whole amounts, so nothing is added up here.
"use strict";
(function () {
  const STALE_MS = 6000;
  const MAX_CARDS = 6;
  const MAX_POINTS = 260;
  const byId = function (id) { return document.getElementById(id); };
  const state = JSON.parse(byId("state").textContent);
  let points = state.chart.points;
  let series = state.chart.series;
  let receivedAt = Date.now();
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
      none.setAttribute("aria-label", alt + ": no picture is stored");
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
    document.querySelectorAll("[data-total]").forEach(function (target) { fillAmount(target, next.totals[target.dataset.total]); });
    document.querySelectorAll("[data-share]").forEach(function (target) { target.textContent = next.shares[target.dataset.share]; });
    document.querySelectorAll("[data-field]").forEach(function (target) { target.textContent = next[target.dataset.field]; });
    byId("check").classList.toggle("good", next.reconciles);
    byId("check").classList.toggle("bad", !next.reconciles);
    byId("verdict").textContent = next.reconciles ? "Adds up" : "Does not add up: run gmvaluator ledger verify";
    if (next.sequence > 0 && byId("empty")) {
      byId("empty").remove();
      byId("body").hidden = false;
      if (chart) chart.resize();
    }
  };

  // --- leaders: rows are reused and moved, so that a change of place can be seen ---------------------------------------
  const leaderRow = function (owner) {
    const row = element("li");
    row.dataset.owner = owner.owner_id;
    const link = element("a");
    link.href = "/owners/" + encodeURIComponent(owner.owner_id);
    link.append(element("span", "name", owner.name), element("span", "num"), bar(owner.bar));
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
    leaders.forEach(function (leader, place) {
      const row = before.get(leader.owner_id) || leaderRow(leader);
      before.delete(leader.owner_id);
      fillAmount(row.querySelector(".num"), leader.credits);
      row.querySelector(".name").textContent = leader.name;
      row.querySelector(".fill").setAttribute("width", leader.bar);
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
  const sourceRow = function (contributor) {
    const row = element("li");
    const link = element("a");
    link.href = "/works/" + encodeURIComponent(contributor.work_id);
    const who = element("span", "who");
    const figures = element("span", "muted figures");
    const distance = element("span", "", "d " + contributor.distance.slice(0, 6));
    distance.title = "Distance: lower is nearer";
    figures.append(element("span", "", contributor.share), distance);
    who.append(element("span", "artist", contributor.artist), bar(contributor.share_percent), figures);
    link.append(thumb(contributor.picture, contributor.title, ""), who);
    row.append(link);
    return row;
  };
  const card = function (posting) {
    const row = element("li", "generated fresh");
    row.dataset.sequence = posting.sequence;
    const made = element("a", "made");
    made.href = "/generations/" + posting.sequence;
    made.setAttribute("aria-label", "Generated image, posting " + posting.sequence + ": how its credit was divided");
    made.append(thumb(hidesGenerated ? null : posting.picture, "Generated image", "large"));
    const about = element("div", "about");
    const first = element("p", "line");
    const number = element("a", "", "No. " + posting.sequence);
    number.href = made.href;
    first.append(number, " ", element("span", "muted", posting.posted_at));
    const second = element("p", "line muted", "quality " + posting.quality + " → ");
    const amount = element("strong");
    fillAmount(amount, posting.issued);
    second.append(amount, " credits");
    about.append(first, second);
    const sources = element("ol", "sources");
    posting.contributors.forEach(function (each) { sources.append(sourceRow(each)); });
    const rest = element("li", "rest");
    rest.append(element("span", "muted", (posting.more ? "and " + posting.more + " more · " : "") + "unattributed " + posting.unattributed_share));
    sources.append(rest);
    row.append(made, about, sources);
    return row;
  };
  const showFeed = function (cards, whole) {
    const list = byId("feed");
    if (!list) return;
    if (whole) list.replaceChildren();
    cards.slice().sort(function (a, b) { return a.sequence - b.sequence; }).forEach(function (posting) {
      if (!list.querySelector('[data-sequence="' + Number(posting.sequence) + '"]')) list.prepend(card(posting));
    });
    while (list.children.length > MAX_CARDS) list.lastElementChild.remove();
  };

  // --- chart ---------------------------------------------------------------------------------------------------------
  const colour = function (name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); };
  const options = function () {
    const ink = colour("--muted"), line = colour("--line");
    const bands = series.map(function (name, index) {
      const last = series.length - index;
      const own = last > 3 ? colour("--series-" + (index + 1)) : [colour("--waiting"), colour("--unattributed"), colour("--others")][last - 1];
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
      row.append(element("span", "swatch " + (last > 3 ? "s" + (index + 1) : ["waiting", "unattributed", "others"][last - 1])), element("span", "", name));
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
  const showStatus = function (kind, text, banner) {
    byId("live").className = "live " + kind;
    if (byId("live-text").textContent !== text) byId("live-text").textContent = text;
    byId("banner").hidden = !banner;
    if (banner && byId("banner").textContent !== banner) byId("banner").textContent = banner;
  };
  const receive = function (event) {
    const next = JSON.parse(event.data);
    receivedAt = Date.now();
    showStatus("on", "Live", "");
    showFigures(next);
    showLeaders(next.leaders);
    showFeed(next.feed, next.whole);
    showChart(next, next.whole);
  };
  const lost = function () {
    showStatus("off", "Disconnected", "Disconnected. These figures are as of posting " + byId("sequence").textContent + "; trying again.");
  };
  const connect = function () {
    const stream = new EventSource("/live/overview");
    stream.addEventListener("overview", receive);
    stream.onerror = function () {
      if (stream.readyState !== EventSource.CLOSED) { lost(); return; }
      showStatus("off", "Disconnected", "Disconnected, and the session has ended. Load the page again to sign in; trying again.");
      setTimeout(connect, 5000);
    };
  };
  setInterval(function () { if (Date.now() - receivedAt > STALE_MS) lost(); }, 1000);
  window.addEventListener("resize", function () { if (chart) chart.resize(); });
  window.addEventListener("themechange", function () { if (chart) drawChart(true); });
  drawChart(true);
  showLegend();
  connect();
})();
