"""The simulated world of the prompt optimisers: task families, and an OpenAI-compatible endpoint that plays all models.

Used by the drivers beside it, in three environments (ours, upstream's, gepa's), so `families` and below need nothing
but the standard library; only `server` needs Starlette and uvicorn.
"""
