// Sends a dropped picture for comparison, and shows the works that it resembles. Nothing is posted.
"use strict";
(function () {
  const form = document.getElementById("preview");
  if (!form) return;
  const answer = document.getElementById("answer");
  const file = document.getElementById("file");
  const MAX_BYTES = 20 * 1024 * 1024;
  let picture = null;

  const element = function (name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const showText = function (text, className) { answer.replaceChildren(element("p", className || "muted", text)); };
  const bar = function (percent) {
    const made = element("span", "meter");
    const fill = element("span", "meter-fill");
    fill.style.width = percent + "%";
    made.append(fill);
    return made;
  };
  const match = function (work) {
    const row = element("li");
    const link = element("a");
    link.href = "/works/" + encodeURIComponent(work.work_id);
    if (work.picture) {
      const image = element("img", "thumb tile-thumb");
      image.src = work.picture;
      image.alt = work.title;
      link.append(image);
    } else {
      link.append(element("span", "thumb none tile-thumb"));
    }
    link.append(element("span", "artist", work.title), element("span", "muted small", work.artist), bar(work.share_percent));
    link.append(element("span", "muted small", work.share + " · distance " + work.distance.slice(0, 6)));
    row.append(link);
    return row;
  };
  const show = function (result, blob) {
    const head = element("div", "preview");
    const image = element("img", "thumb large");
    if (picture) URL.revokeObjectURL(picture);
    picture = URL.createObjectURL(blob);
    image.src = picture;
    image.alt = "The picture you dropped";
    const text = element("div");
    if (result.indexed) {
      const known = element("p");
      const link = element("a", "", "this very file is in the index");
      link.href = "/works/" + encodeURIComponent(result.indexed);
      known.append("Yes: ", link, ".");
      text.append(known);
    } else {
      text.append(element("p", "", "This very file is not in the index; these works are nearest."));
    }
    text.append(element("p", "muted", "Quality " + result.quality + ", by policy " + result.policy + ". " + result.unattributed + " would be unattributed. Nothing was posted."));
    head.append(image, text);
    const list = element("ol", "gallery");
    result.rows.forEach(function (work) { list.append(match(work)); });
    answer.replaceChildren(head, list);
    if (!result.rows.length) answer.append(element("p", "muted", result.only_own ? "None of your works is among the " + result.contributors + " nearest." : "No training image is similar enough."));
  };
  const compare = function (blob) {
    if (blob.size > MAX_BYTES) { showText("The picture is over 20 MiB: choose a smaller one.", "problem"); return; }
    showText("Comparing with every training image…");
    fetch("/preview?model_version=" + encodeURIComponent(document.getElementById("generator").value), {
      method: "POST", body: blob, headers: { "x-csrf-token": form.dataset.csrf, "content-type": "application/octet-stream", accept: "application/json" },
    }).then(function (response) {
      return response.json().then(function (result) {
        if (response.ok) show(result, blob); else showText("It could not be compared: " + result.error + ".", "problem");
      });
    }).catch(function () { showText("The dashboard cannot be reached. Try again in a moment.", "problem"); });
  };
  file.addEventListener("change", function () { if (file.files.length) compare(file.files[0]); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  ["dragenter", "dragover"].forEach(function (kind) {
    form.addEventListener(kind, function (event) { event.preventDefault(); form.classList.add("over"); });
  });
  ["dragleave", "drop"].forEach(function (kind) {
    form.addEventListener(kind, function (event) { event.preventDefault(); form.classList.remove("over"); });
  });
  form.addEventListener("drop", function (event) {
    if (event.dataTransfer.files.length) compare(event.dataTransfer.files[0]);
  });
})();
