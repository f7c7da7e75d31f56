// Sends a dropped picture to be compared, and shows whose works it is like. Nothing is posted.
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
  const say = function (text, className) { answer.replaceChildren(element("p", className || "muted", text)); };
  const bar = function (percent) {
    const made = element("span", "meter");
    const fill = element("span", "meter-fill");
    fill.style.width = percent + "%";
    made.append(fill);
    return made;
  };
  const match = function (one) {
    const row = element("li");
    const link = element("a");
    link.href = "/works/" + encodeURIComponent(one.work_id);
    if (one.picture) {
      const image = element("img", "thumb tile-thumb");
      image.src = one.picture;
      image.alt = one.title;
      link.append(image);
    } else {
      link.append(element("span", "thumb none tile-thumb"));
    }
    link.append(element("span", "artist", one.title), element("span", "muted small", one.artist), bar(one.share_percent));
    link.append(element("span", "muted small", one.share + " · distance " + one.distance.slice(0, 6)));
    row.append(link);
    return row;
  };
  const show = function (found, blob) {
    const head = element("div", "asked");
    const image = element("img", "thumb large");
    if (picture) URL.revokeObjectURL(picture);
    picture = URL.createObjectURL(blob);
    image.src = picture;
    image.alt = "The picture you dropped";
    const text = element("div");
    if (found.indexed) {
      const known = element("p");
      const link = element("a", "", "this very file is in the index");
      link.href = "/works/" + encodeURIComponent(found.indexed);
      known.append("Yes: ", link, ".");
      text.append(known);
    } else {
      text.append(element("p", "", "This very file is not in the index; these works are nearest."));
    }
    text.append(element("p", "muted", "Quality " + found.quality + ", by policy " + found.policy + ". Nobody would get " + found.nobody + ". Nothing was posted."));
    head.append(image, text);
    const list = element("ol", "gallery");
    found.rows.forEach(function (one) { list.append(match(one)); });
    answer.replaceChildren(head, list);
    if (!found.rows.length) answer.append(element("p", "muted", found.only_own ? "None of your works is among the " + found.contributors + " nearest." : "No training image is near."));
  };
  const ask = function (blob) {
    if (blob.size > MAX_BYTES) { say("The picture is over 20 MiB: choose a smaller one.", "problem"); return; }
    say("Comparing with every training image…");
    fetch("/preview?model_version=" + encodeURIComponent(document.getElementById("generator").value), {
      method: "POST", body: blob, headers: { "x-csrf-token": form.dataset.csrf, "content-type": "application/octet-stream", accept: "application/json" },
    }).then(function (response) {
      return response.json().then(function (found) {
        if (response.ok) show(found, blob); else say("It could not be compared: " + found.error + ".", "problem");
      });
    }).catch(function () { say("The dashboard cannot be reached. Try again in a moment.", "problem"); });
  };
  file.addEventListener("change", function () { if (file.files.length) ask(file.files[0]); });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  ["dragenter", "dragover"].forEach(function (kind) {
    form.addEventListener(kind, function (event) { event.preventDefault(); form.classList.add("over"); });
  });
  ["dragleave", "drop"].forEach(function (kind) {
    form.addEventListener(kind, function (event) { event.preventDefault(); form.classList.remove("over"); });
  });
  form.addEventListener("drop", function (event) {
    if (event.dataTransfer.files.length) ask(event.dataTransfer.files[0]);
  });
})();
