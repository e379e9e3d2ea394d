// The form that starts a run.
import { ask, h, notice, say } from "./dom.js";

export function mount(place, data, { load }) {
  const profile = h("select", { "aria-label": "profile" }, data.profiles.map((one) => h("option", { value: one }, one)));
  const settings = h("input", { "aria-label": "settings", placeholder: "pretrain.steps=10 seed=1", size: 34 });
  async function start() {
    try {
      say((await ask("/api/start", { profile: profile.value, settings: settings.value.split(/\s+/).filter(Boolean) })).said);
      notice("");
      setTimeout(load, 2500);
    } catch (error) { notice(error.message); }
  }
  place.replaceChildren(h("details", {}, h("summary", {}, "Start a run"), h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); start(); } },
    h("label", {}, "profile", profile), h("label", {}, "settings that differ", settings), h("button", {}, "Start"))));
}
