#!/bin/sh
# `curl`: one question. The city comes from the task, the weather that is right too (see `input_map`).
set -eu

body=$(printf '{"model": "%s", "messages": [{"role": "user", "content": "What is the weather in %s?"}]}' "$AGL_MODEL" "$CITY")
answer=$(curl --silent --show-error --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    --header "Authorization: Bearer $OPENAI_API_KEY" --header 'Content-Type: application/json' --data "$body")

case $answer in
*"$WEATHER"*) echo '{"reward": 1}' ;;
*) echo '{"reward": 0}' ;;
esac
