"""The program that is trained: it files a mail as its instruction says, and is told whether that was right.

It knows nothing of Agent-Lightning: no import, only a few environment variables. It could be written in any language. A
real one would put its instruction before an LLM (`OPENAI_BASE_URL`); this one reads it word by word, so that the
example needs no model.
"""

import json
import os
import re
from pathlib import Path

RULE = re.compile(r"If it says (\w+), file it under (\w+)\.")


def folder_for(mail: str, instruction: str) -> str:
    """The folder that the first fitting rule names."""
    words = set(re.findall(r"\w+", mail.lower()))
    for word, folder in RULE.findall(instruction):
        if word in words:
            return folder
    return "inbox"


def main() -> None:
    task = json.loads(Path(os.environ["AGL_TASK_FILE"]).read_text(encoding="utf-8"))
    instruction = Path(os.environ["AGL_PROMPT_FILE"]).read_text(encoding="utf-8")
    folder = folder_for(task["mail"], instruction)
    print(f"filed under {folder}, right is {task['folder']}")
    print(json.dumps({"reward": float(folder == task["folder"])}))


if __name__ == "__main__":
    main()
