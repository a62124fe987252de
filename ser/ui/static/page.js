// The first script of the page: its language, the owner's session, and what Gradio's recorder leaves unsaid.
// TEXTS (key -> language -> text), NAMES (of controls: Gradio's -> language -> ours) and the addresses of two of Gradio's scripts (CHARTS draws charts, CORE changes the
// language) are filled in by style.py.
window.ser = (() => {
  const TEXTS = {};
  const NAMES = {};
  const CHARTS = "";
  const CORE = "";
  const address = new URLSearchParams(location.search);

  // Gradio takes its language from the browser alone and knows nothing of right-to-left.
  const asked = address.get("lang") || navigator.language || "en";
  let language;
  Object.defineProperty(navigator, "language", { get: () => language, configurable: true });
  const say = (key) => TEXTS[key][language];
  const speak = (wanted) => {
    language = wanted;
    document.documentElement.lang = language;
    document.documentElement.dir = language === "fa" ? "rtl" : "ltr";
    for (const name of ["upload", "record", "dark", "light"]) {
      document.documentElement.style.setProperty(`--${name}`, JSON.stringify(say(`js_${name}`)));
    }
  };
  speak(asked.toLowerCase().startsWith("fa") ? "fa" : "en");
  // Without loading the page again: what was recorded, answered and filled in stays. An answer keeps its language.
  const switchTo = async (wanted) => {
    const { changeLocale } = await import(new URL(CORE, document.baseURI).href);
    const answer = document.querySelector("#answer .box:not(.waiting, [lang])");
    if (answer) Object.assign(answer, { lang: language, dir: document.documentElement.dir });
    speak(wanted);
    note("lang", wanted);
    changeLocale(wanted);
    document.querySelector("#language-switched").click();
  };

  // Gradio's and Plotly's own controls are named in English alone.
  const PLACES = ["aria-label", "title", "placeholder", "data-title"];
  const PATTERNS = Object.entries(NAMES).map(([theirs, ours]) => {
    const [before, after] = theirs.split("{value}").map((part) => part.replace(/[.()]/g, "\\$&"));
    return [new RegExp(after === undefined ? `^${before}$` : `^${before}(.*)${after}$`), ours];
  });
  const nameOf = (theirs) => {
    const [pattern, ours] = PATTERNS.find(([pattern]) => pattern.test(theirs)) || [];
    const value = pattern?.exec(theirs)[1];
    return ours?.[language].replace("{value}", value > 0 ? Number(value).toLocaleString(language) : value) || theirs;
  };
  const renamed = new WeakMap(); // element -> place -> their name, ours, its language
  const rename = () => {
    for (const element of document.querySelectorAll(PLACES.map((place) => `[${place}]`).join())) {
      const known = renamed.get(element) || {};
      renamed.set(element, known);
      for (const place of PLACES) {
        const now = element.getAttribute(place);
        const isOurs = now === known[place]?.ours;
        if (!now || (isOurs && known[place].language === language)) continue;
        const theirs = isOurs ? known[place].theirs : now;
        known[place] = { theirs, ours: nameOf(theirs), language };
        if (now !== known[place].ours) element.setAttribute(place, known[place].ours);
      }
    }
  };
  setInterval(rename, 500);

  // The owner's session: from the address printed at the start, later from this browser's storage.
  const KEY = "ser-session";
  let session = "";
  const keep = (value) => {
    session = value || "";
    try {
      session ? localStorage.setItem(KEY, session) : localStorage.removeItem(KEY);
    } catch { /* a frame whose storage is blocked: until the page is left */ }
  };
  try { session = localStorage.getItem(KEY) || ""; } catch { /* as above */ }
  if (address.has("token")) {
    keep(address.get("token"));
    address.delete("token");
    const rest = address.toString();
    history.replaceState(null, "", location.pathname + (rest ? `?${rest}` : "") + location.hash);
  }

  // Charts refer to parts of themselves, with the page's address where it has a base; that address changes below.
  addEventListener("load", () => document.querySelector('base[href="./"]')?.remove());

  // What is open is in the address, so that a reload, a link and the other language lead back to it.
  const note = (name, value) => {
    const now = new URLSearchParams(location.search);
    value ? now.set(name, value) : now.delete(name);
    history.replaceState(null, "", `${location.pathname}?${now}${location.hash}`);
  };

  // Settings, by form, as they were before a reload. Read before anything can be filled in, given back once at most.
  const FORMS = "ser-forms";
  let filled = {};
  try { filled = JSON.parse(sessionStorage.getItem(FORMS)) || {}; } catch { /* as above */ }
  const before = { ...filled };

  // Why there is no recording.
  const problem = (key) => `<div class="box problem" role="alert"><p>${say(key)}</p></div>`;
  const blank = (key) => `<div class="box waiting" role="status">${say(key)}</div>`;
  const hint = (key) => {
    const place = document.querySelector("#hint");
    if (place) place.innerHTML = key ? problem(key) : "";
  };

  // Live: what the recorder's microphone hears is sent on in pieces, one request at a time.
  const isLive = () => document.querySelector("#live input")?.checked;
  const MOST = 23; // pieces of a quarter second that wait for an answer: the server keeps six seconds
  const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
    held = [];
    process([[samples]]) {
      this.held.push(...(samples || new Float32Array(128)));
      if (this.held.length >= sampleRate / 4) this.port.postMessage(this.held.splice(0));
      return true;
    }
  })`;
  let microphone = null, tapped = null, rate = 0, pieces = [], first = 0, isAsked = false, isHeard = false, heardLast = "";
  const send = () => {
    if (pieces.length && !isAsked) document.querySelector("#live-send").click();
  };
  const listen = async () => {
    if (!isLive() || !microphone?.active || tapped === microphone) return;
    const stream = tapped = microphone;
    [pieces, first, isAsked, isHeard, heardLast] = [[], 0, false, true, ""];
    document.body.append(announced);
    const context = new AudioContext();
    rate = context.sampleRate;
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], { type: "text/javascript" })));
    const tap = new AudioWorkletNode(context, "tap", { channelCount: 1, channelCountMode: "explicit" });
    tap.port.onmessage = ({ data }) => {
      if (!stream.active) return context.close();
      if (isShown(inRecorder(".resume-button"))) return; // paused, as the recording is
      pieces.push(data);
      while (pieces.length > (isLive() ? MOST : 0)) first += pieces.shift().length;
      send();
    };
    context.createMediaStreamSource(stream).connect(tap).connect(context.destination); // silent: it only listens
  };
  const announced = document.createElement("p"); // a new emotion is read out, not every answer
  announced.className = "announced";
  announced.role = "status";

  const devices = navigator.mediaDevices;
  if (devices?.getUserMedia) {
    const ask = devices.getUserMedia.bind(devices);
    devices.getUserMedia = async (wish) => {
      try {
        const stream = await ask(wish);
        hint("");
        microphone = stream;
        listen();
        return stream;
      } catch (error) {
        hint(error.name === "NotAllowedError" ? "js_microphone_refused" : "js_microphone_missing");
        throw error;
      }
    };
  }

  const inRecorder = (selector) => document.querySelector(`#recording ${selector}`);
  const isShown = (element) => element !== null && getComputedStyle(element).display !== "none";
  let isPressed = false;
  const stopButton = () => [".stop-button", ".stop-button-paused"].map(inRecorder).find(isShown);
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const link = event.target.closest(".languages a");
    if (link) {
      event.preventDefault();
      switchTo(link.lang);
    }
    if (event.target.closest(".theme")) note("__theme", document.body.classList.toggle("dark") ? "dark" : "light");
    const recognise = event.target.closest("#recognise");
    const stop = recognise && stopButton();
    if (stop) { // stop the recording; once it is uploaded, `waiting` presses again
      event.stopImmediatePropagation();
      event.preventDefault();
      isPressed = true;
      stop.click();
    }
    if (event.target.closest("#recording")) {
      if (event.target.closest(".record-button") && !devices) hint("js_microphone_insecure");
      if (event.target.closest(".source-selection")) hint("");
      setTimeout(() => { // the button that was pressed is gone, and the keyboard's place with it
        if (document.activeElement !== document.body) return;
        (stopButton() || inRecorder(".play-pause-button") || inRecorder(".record-button"))?.focus();
      }, 700);
    }
    if (event.target.matches?.("#recording input[type=file]")) event.target.accept += ",video/webm,video/mp4,.webm,.mp4";
  }, true);

  document.addEventListener("change", (event) => event.target.closest?.("#live") && listen());

  // Browsers call every .webm and .mp4 a video, and Gradio's recorder takes only what is called audio.
  const asAudio = (files) => {
    const transfer = new DataTransfer();
    for (const file of files) {
      const type = file.type.replace(/^video\/(webm|mp4|quicktime|ogg)$/, "audio/$1");
      transfer.items.add(type === file.type ? file : new File([file], file.name, { type }));
    }
    return transfer;
  };
  const isVideo = (file) => file.type.startsWith("video/");
  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches?.("#recording input[type=file]") || ![...input.files].some(isVideo)) return;
    input.files = asAudio(input.files).files;
  }, true);
  document.addEventListener("drop", (event) => {
    if (!event.target.closest?.("#recording") || ![...(event.dataTransfer?.files || [])].some(isVideo)) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    const dataTransfer = asAudio(event.dataTransfer.files);
    event.target.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
  }, true);

  // The charts' script is large: fetch it as soon as somebody does something here, not with the first answer.
  const loadCharts = () => CHARTS && import(new URL(CHARTS, document.baseURI).href).catch(() => {});
  addEventListener("pointerdown", loadCharts, { once: true, capture: true });
  addEventListener("keydown", loadCharts, { once: true, capture: true });

  // A line in the chart stands where the player is, and a press in the chart plays from there, where both are of the
  // same recording. Gradio's player keeps its sound in a shadow tree.
  const playHead = document.createElement("i");
  playHead.className = "play-head";
  const played = () => {
    const chart = document.querySelector("#timeline .js-plotly-plot");
    const sound = document.querySelector("#recording #waveform > div")?.shadowRoot?.querySelector("audio");
    const { xaxis, _size } = chart?._fullLayout || {};
    const isOne = xaxis && sound && Math.abs(sound.duration - xaxis._rangeInitial1) < 0.5;
    return isOne ? { chart, sound, axis: xaxis, size: _size } : {};
  };
  setInterval(() => {
    const { chart, sound, axis, size } = played();
    const x = sound?.currentTime > 0 ? axis.l2p(sound.currentTime) : -1;
    playHead.hidden = !(x >= 0 && x <= axis._length);
    if (playHead.hidden) return;
    if (playHead.parentElement !== chart) chart.append(playHead);
    Object.assign(playHead.style, { left: `${axis._offset + x}px`, top: `${size.t}px`, height: `${size.h}px` });
  }, 50);
  let held = null;
  document.addEventListener("pointerdown", (event) => { held = event; }, true);
  document.addEventListener("pointerup", (event) => {
    const { chart, sound, axis, size } = played();
    if (!chart?.contains(held?.target) || held.target.closest(".legend, .modebar, .updatemenu-container")) return;
    if (Math.hypot(event.clientX - held.clientX, event.clientY - held.clientY) > 3) return; // a part was chosen
    const place = chart.getBoundingClientRect();
    const [x, y] = [event.clientX - place.left - axis._offset, event.clientY - place.top - size.t];
    if (x < 0 || x > axis._length || y < 0 || y > size.h) return;
    sound.currentTime = axis.p2l(x);
    sound.play();
  }, true);

  // How far a training is stands in the window's title while it runs, and how it ended until somebody looks.
  let title = "", isWatched = false;
  setInterval(() => {
    const box = [...document.querySelectorAll("#cv-state .box, #tune-state .box")].find((one) => one.offsetParent);
    const isRunning = box?.classList.contains("running");
    const heading = box?.querySelector("h2")?.textContent;
    if (!isRunning && !isWatched) {
      title = document.title;
      return;
    }
    isWatched = isRunning || Boolean(heading && document.hidden);
    document.title = isWatched ? `${heading} · ${title}` : title;
  }, 1000);

  // One answer at a time: a press while one is being computed waits for it, and says so in the place of the answer.
  let presses = 0, pressed = 0, isWorking = false;
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#recognise, #examples button")) return;
    if (isWorking) event.stopImmediatePropagation();
    else setWorking(true);
  }, true);
  const scrollToAnswer = () => requestAnimationFrame(() => {
    document.querySelector("#answer")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  });
  const setWorking = (is) => {
    isWorking = is;
    document.body.classList.toggle("working", is);
  };

  return {
    note,
    fill: (form, values) => {
      filled[form] = values;
      try { sessionStorage.setItem(FORMS, JSON.stringify(filled)); } catch { /* as above */ }
    },
    filledBefore: (form, count) => (before[form]?.length === count ? before[form] : Array(count)),
    opened: () => {
      document.getElementById(`tab-${address.get("tab")}-button`)?.click();
      address.delete("tab"); // what is open stays open when the language changes
      return [language, session];
    },
    keep,
    unanswered: (shown) => (!shown || shown.includes("box waiting") ? blank("ser_answer_here") : undefined),
    waiting: (key) => {
      setWorking(key === "js_working");
      presses += 1;
      pressed = performance.now();
      if (isPressed && key !== "js_working") {
        isPressed = false;
        setTimeout(() => document.querySelector("#recognise").click(), 100);
      }
      const isKept = isLive() && heardLast && key !== "js_working" && !microphone.active; // live has just ended
      isHeard = isKept || microphone?.active;
      heardLast = "";
      return isKept ? undefined : blank(key);
    },
    piece: () => {
      const samples = Int16Array.from(pieces.flat(), (one) => 32767 * Math.max(-1, Math.min(1, one)));
      const text = Array.from(new Uint8Array(samples.buffer), (byte) => String.fromCharCode(byte)).join("");
      const sent = [rate, first, btoa(text)].join();
      [pieces, first, isAsked] = [[], first + samples.length, true];
      return sent;
    },
    heard: (answer) => {
      isAsked = false;
      setTimeout(send); // what was said meanwhile
      if (isWorking || !isLive() || !isHeard) return undefined;
      const heading = new DOMParser().parseFromString(answer, "text/html").querySelector("h2")?.textContent;
      if (heading && heading !== heardLast) {
        if (!heardLast) scrollToAnswer();
        announced.textContent = heardLast = heading;
      }
      return answer;
    },
    failed: (shown) => { // a taken back answer counts as failed, too
      if (!isWorking) return shown;
      setWorking(false);
      return problem("js_crowded");
    },
    crowded: () => problem("js_crowded"),
    press: () => presses,
    answered: (press, answer) => {
      if (press !== presses) return undefined; // taken back, too early for Gradio to cancel it: what is shown stays
      setWorking(false);
      scrollToAnswer();
      // The time that counts for the visitor: from the press until the answer is back in the browser.
      const seconds = (performance.now() - pressed) / 1000;
      const digits = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
      const said = say("js_elapsed").replace("{seconds}", seconds.toLocaleString(language, digits));
      return answer.replace('<span class="elapsed">', `$& · ${said}`);
    },
  };
})();
