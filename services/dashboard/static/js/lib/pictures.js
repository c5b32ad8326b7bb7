// Pictures as the APIs take them, and the made-up pages of the dashboard.
import { own } from "./api.js";
import { Problem } from "./problems.js";

/** @typedef {{url: string, width: number, height: number, name: string}} Shown `url` is a data: URL */

/** A made-up page, with questions whose answers are known. @param {number} index @returns {Promise<{picture: Shown, questions: {question: string, answer: string}[]}>} */
export async function sample(index) {
  const [about, answer] = await Promise.all([own(`/samples/${index}`), fetch(`/dashboard/samples/${index}/picture.png`)]);
  return { picture: await readPicture(await answer.blob(), `sample page ${index + 1}`), questions: about.questions };
}

/**
 * Have the browser decode a file, so that what is no picture is told before it is sent. Throws Problem.
 * @param {Blob} file @param {string} name @returns {Promise<Shown>}
 */
export async function readPicture(file, name) {
  const image = new Image();
  image.src = await dataUrl(file);
  try {
    await image.decode();
  } catch {
    throw unreadable(name);
  }
  return { url: image.src, name, width: image.naturalWidth, height: image.naturalHeight };
}

/** @param {Blob} blob @returns {Promise<string>} */
function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(unreadable("the file"));
    reader.readAsDataURL(blob);
  });
}

const unreadable = (name) => new Problem({ code: "invalid_image", status: 422, detail: `${name} is not a picture` });
