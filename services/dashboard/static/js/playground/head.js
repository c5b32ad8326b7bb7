// The head whose kept tokens are drawn over the picture; to begin with, the one that looks at pictures most.
import { get } from "../lib/api.js";
import { byId, setOptions } from "../lib/dom.js";
import { percent } from "../lib/format.js";

export class HeadChoice {
  /** @param {() => void} onChange */
  constructor(onChange) {
    this.on = byId("show-kept");
    this.layer = byId("layer");
    this.head = byId("head");
    this.model = null;
    /** By the map's scores, the strongest first. @type {{layer: number, head: number, score: number, rank: number}[]} */
    this.ranked = [];
    this.on.addEventListener("change", () => {
      byId("head-choice").hidden = !this.on.checked;
      onChange();
    });
    for (const select of [this.layer, this.head]) {
      select.addEventListener("change", () => {
        this.#tell();
        onChange();
      });
    }
    byId("head-choice").hidden = !this.on.checked;
  }

  /** Query heads that share a KV head share what it keeps. @returns {{layer: number, kv_head: number} | null} */
  get chosen() {
    if (!this.on.checked || !this.model) return null;
    const group = this.model.num_heads / this.model.num_kv_heads;
    return { layer: Number(this.layer.value), kv_head: Math.floor(Number(this.head.value) / group) };
  }

  /** Offer the heads of a model. @param {any} model as /v1/models has it */
  async follow(model) {
    this.model = model;
    this.ranked = [];
    setOptions(this.layer, numbers(model.num_layers));
    setOptions(this.head, numbers(model.num_heads));
    this.#tell();
    if (!model.map) return;
    const found = await get(`/maps/${model.map.id}/heads`, { limit: model.num_layers * model.num_heads });
    if (this.model !== model) return;
    this.ranked = found.items;
    this.layer.value = String(this.ranked[0].layer);
    this.head.value = String(this.ranked[0].head);
    this.#tell();
  }

  #tell() {
    const [layer, head] = [Number(this.layer.value), Number(this.head.value)];
    const found = this.ranked.find((one) => one.layer === layer && one.head === head);
    const rank = found?.rank === 1 ? "It looks at pictures most of all" : `Number ${found?.rank} of ${this.ranked.length} at looking at pictures`;
    byId("head-hint").textContent = found ? `${rank}: ${percent(found.score)} of the score.` : "Without a head map nobody knows which heads look at pictures.";
  }
}

const numbers = (count) => Array.from({ length: count }, (_, index) => [String(index), String(index)]);
