// The first view is asked for at once: the chart library, which is read meanwhile, takes longer than the answer.
import { ask } from "./dom.js";

export const first = ask(`/api/page/${document.documentElement.dataset.page}${location.search}`);
first.catch(() => {}); // whoever awaits it is told
