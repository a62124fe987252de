// The first script of the page: its language, the owner's session, and what Gradio's recorder leaves unsaid.
// TEXTS (key -> language -> text) and CHARTS (the address of the script that draws charts) are filled in by style.py.
window.ser = (() => {
  const TEXTS = {};
  const CHARTS = "";
  const address = new URLSearchParams(location.search);

  // Gradio takes its language from the browser alone and knows nothing of right-to-left.
  const asked = address.get("lang") || navigator.language || "en";
  const language = asked.toLowerCase().startsWith("fa") ? "fa" : "en";
  Object.defineProperty(navigator, "language", { get: () => language, configurable: true });
  document.documentElement.lang = language;
  document.documentElement.dir = language === "fa" ? "rtl" : "ltr";
  const say = (key) => TEXTS[key][language];
  for (const name of ["upload", "record"]) {
    document.documentElement.style.setProperty(`--${name}`, JSON.stringify(say(`js_${name}`)));
  }

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

  // Why there is no recording.
  const problem = (key) => `<div class="box problem" role="alert"><p>${say(key)}</p></div>`;
  const hint = (key) => {
    const place = document.querySelector("#hint");
    if (place) place.innerHTML = key ? problem(key) : "";
  };
  const devices = navigator.mediaDevices;
  if (devices?.getUserMedia) {
    const ask = devices.getUserMedia.bind(devices);
    devices.getUserMedia = async (wish) => {
      try {
        const stream = await ask(wish);
        hint("");
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
    if (link) { // the rest of the address stays
      const now = new URLSearchParams(location.search);
      now.set("lang", link.lang);
      link.search = now;
    }
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

  // One answer at a time: a press while one is being computed waits for it, and says so in the place of the answer.
  let presses = 0, pressed = 0, isWorking = false;
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#recognise, #examples button")) return;
    if (isWorking) event.stopImmediatePropagation();
    else setWorking(true);
  }, true);
  const setWorking = (is) => {
    isWorking = is;
    document.body.classList.toggle("working", is);
  };

  return {
    language,
    // What is open is in the address, so that a reload, a link and the other language lead back to it.
    note: (name, value) => {
      const now = new URLSearchParams(location.search);
      value ? now.set(name, value) : now.delete(name);
      history.replaceState(null, "", `${location.pathname}?${now}${location.hash}`);
    },
    openTab: () => document.getElementById(`tab-${address.get("tab")}-button`)?.click(),
    session: () => session,
    keep,
    waiting: (key) => {
      setWorking(key === "js_working");
      presses += 1;
      pressed = performance.now();
      if (isPressed && key !== "js_working") {
        isPressed = false;
        setTimeout(() => document.querySelector("#recognise").click(), 100);
      }
      return `<div class="box waiting" role="status">${say(key)}</div>`;
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
      requestAnimationFrame(() => {
        document.querySelector("#answer")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
      });
      // The time that counts for the visitor: from the press until the answer is back in the browser.
      const seconds = (performance.now() - pressed) / 1000;
      const digits = { minimumFractionDigits: 2, maximumFractionDigits: 2 };
      const said = say("js_elapsed").replace("{seconds}", seconds.toLocaleString(language, digits));
      return answer.replace('<span class="elapsed">', `$& · ${said}`);
    },
  };
})();
