/**
 * The page: which view the address names, and the token that the API may want.
 * #/ lists the runs, #/runs/ID shows one.
 */

import { onTokenWanted } from "./api.js";
import { byId } from "./dom.js";
import { Page, showBanner } from "./page.js";
import { RunView } from "./run.js";
import { RunList } from "./runs.js";

const main = byId("main", HTMLElement);
/** @type {{page: Page, view: import("./page.js").View} | null} */
let shown = null;

/** @returns {import("./page.js").View} */
function viewOf(/** @type {string} */ hash) {
  const run = /^#\/runs\/([^/]+)$/.exec(hash);
  return run ? new RunView(decodeURIComponent(run[1])) : new RunList();
}

function route() {
  const entered = shown !== null;
  shown?.view.close();
  shown?.page.close();
  const view = viewOf(location.hash);
  const page = new Page();
  shown = { page, view };
  document.title = `${view.title} - Syncline`;
  main.replaceChildren(view.element);
  if (entered) {
    view.heading.focus();
    window.scrollTo(0, 0);
  }
  view.start(page);
}

/**
 * @param {boolean} refused
 * @returns {Promise<string>}
 */
function askForToken(refused) {
  const dialog = byId("token-dialog", HTMLDialogElement);
  const form = byId("token-form", HTMLFormElement);
  const input = byId("token", HTMLInputElement);
  byId("token-refused", HTMLElement).hidden = !refused;
  return new Promise((resolve) => {
    const ask = () => {
      input.value = "";
      dialog.showModal();
    };
    const answered = () => {
      const token = input.value.trim();
      // A header holds printable ASCII; without a token there is nothing to show, so ask again.
      if (!/^[\x21-\x7e]+$/.test(token)) return ask();
      dialog.removeEventListener("close", answered);
      form.reset();
      resolve(token);
    };
    dialog.addEventListener("close", answered);
    ask();
  });
}

onTokenWanted(askForToken);
byId("skip", HTMLElement).addEventListener("click", (event) => {
  event.preventDefault(); // the address is the route
  main.focus();
});
window.addEventListener("hashchange", route);
window.addEventListener("error", (event) => showBanner(`The page itself failed: ${event.message}`));
window.addEventListener("unhandledrejection", (event) => showBanner(`The page itself failed: ${event.reason}`));
route();
