// Two models, one prompt. Blind: which is which is told after the vote.
import { ask, h, notice, say } from "./dom.js";
import { duration } from "./table.js";

export function mount(place, data, { write }) {
  const pick = (name, value) => h("select", { name, "aria-label": `model ${name}`, onchange: (event) => write({ [name]: event.target.value }, false) }, data.models.map((one) => h("option", { value: one, selected: one === value }, one)));
  const models = [pick("a", data.a), pick("b", data.b)];
  const prompt = h("textarea", { "aria-label": "prompt", placeholder: "One prompt for both" });
  prompt.value = data.prompt || "";
  const temperature = h("input", { type: "number", min: 0, max: 2, step: 0.1, value: data.temperature, "aria-label": "temperature" });
  const most = h("input", { type: "number", min: 1, max: 4096, value: data.max_tokens, "aria-label": "most tokens" });
  const blind = h("input", { type: "checkbox", checked: Boolean(data.blind), onchange: (event) => write({ blind: event.target.checked ? "1" : "" }, false) });
  const sides = [0, 1].map(() => ({ title: h("h3"), text: h("pre", { tabindex: 0 }), meta: h("p", { class: "muted" }) }));
  const votes = h("div", { class: "row", hidden: true });
  let round = null;

  async function one(side, model) {
    const began = performance.now();
    let pieces = 0;
    side.text.textContent = "";
    try {
      const answer = await ask("/api/chat", { model, prompt: prompt.value, temperature: Number(temperature.value), max_tokens: Number(most.value) }, true);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const said = JSON.parse(line);
          if (said.error) throw new Error(said.error);
          if (said.piece) { pieces += 1; side.text.textContent += said.piece; }
        }
        side.meta.textContent = `${pieces} pieces, ${duration((performance.now() - began) / 1000)}`;
      }
    } catch (error) { side.meta.textContent = error.message; }
  }

  async function both() {
    if (!prompt.value.trim()) return prompt.focus();
    write({ prompt: prompt.value, a: models[0].value, b: models[1].value, temperature: temperature.value, max_tokens: most.value }, false);
    const chosen = models.map((select) => select.value);
    const turned = blind.checked && Math.random() < 0.5 ? [chosen[1], chosen[0]] : chosen;
    round = { prompt: prompt.value, models: turned };
    sides.forEach((side, i) => { side.title.textContent = blind.checked ? `answer ${i + 1}` : turned[i]; side.meta.textContent = ""; });
    votes.hidden = true;
    await one(sides[0], turned[0]); // one after the other: they share the machine's cores, and their times would lie
    await one(sides[1], turned[1]);
    votes.hidden = !data.votes || sides[0].text.textContent === sides[1].text.textContent;
    document.body.dataset.answered = String(Number(document.body.dataset.answered || 0) + 1);
    return undefined;
  }

  async function vote(better) {
    const [chosen, rejected] = better === 0 ? sides : [sides[1], sides[0]];
    try {
      const answer = await ask("/api/prefer", { prompt: round.prompt, chosen: chosen.text.textContent, rejected: rejected.text.textContent,
        chosen_model: round.models[better], rejected_model: round.models[1 - better] });
      sides.forEach((side, i) => { side.title.textContent = round.models[i]; });
      votes.hidden = true;
      say(answer.said);
      notice("");
      told.textContent = answer.said;
    } catch (error) { notice(error.message); }
  }

  const told = h("p", { class: "muted", role: "status" });
  votes.append("Which is better? ", h("button", { type: "button", onclick: () => vote(0) }, "the left"), h("button", { type: "button", onclick: () => vote(1) }, "the right"),
    h("button", { type: "button", onclick: () => { votes.hidden = true; sides.forEach((side, i) => { side.title.textContent = round.models[i]; }); } }, "neither"));
  prompt.addEventListener("keydown", (event) => { if ((event.ctrlKey || event.metaKey) && event.key === "Enter") both(); });
  place.replaceChildren(h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); both(); } },
    h("label", {}, "left", models[0]), h("label", {}, "right", models[1]), h("label", {}, "temperature", temperature), h("label", {}, "most tokens", most), h("label", { class: "check" }, blind, "blind")),
  h("div", { class: "row" }, prompt), h("div", { class: "row" }, h("button", { type: "button", class: "main", onclick: both }, "Ask both"), h("span", { class: "muted" }, "Ctrl-Enter")),
  h("div", { class: "two" }, sides.map((side) => h("article", { class: "text" }, side.title, side.text, side.meta))), votes, told);
}
