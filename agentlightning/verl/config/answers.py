"""The rules: verl's keys that the loop does not read, and what to say when one of them is set.

Read by `rules`. The first rule that covers a key counts, so exceptions stand before the rest of their section. A
feature that gets built moves its keys from here into the schema.
"""

from __future__ import annotations

from .rules import Rule

_ACTOR = "actor_rollout_ref.actor."
_MODEL = "actor_rollout_ref.model."
_MODELS = "{actor_rollout_ref,critic}.model."
_STEPS = "{actor_rollout_ref.actor,critic}."
_ROLLOUT = "actor_rollout_ref.rollout."
_LATER = "leave it at verl's default"
_SERVER = "other engines, as servers, are not built yet"
_ONE_PROCESS = "nothing to shard: the model is trained in one process"
_AGENT = "your agent does this itself"

_MATHS = (
    Rule(
        "replaced",
        ("algorithm.filter_groups.max_inflight_gen_batches",),
        "a generation batch begins when the one before it has ended",
        "set `data.gen_batch_size` to run more tasks at once",
    ),
    Rule("refused", ("distillation.enabled",), "on-policy distillation is not built yet", _LATER),
    Rule("no_effect", ("distillation.*",), "`distillation.enabled` is False"),
)

_REFERENCE = (
    Rule(
        "replaced",
        ("actor_rollout_ref.ref.log_prob_*",),
        "log-probs of the reference, too, go by token budget; they are the same",
        f"set `{_ACTOR}ppo_max_token_len_per_gpu` to bound memory",
    ),
    Rule("replaced", ("actor_rollout_ref.ref.*profiler.*",), "times by phase are in `metrics.jsonl`", "use py-spy"),
    Rule("refused", ("actor_rollout_ref.ref.rollout_n",), "it follows the rollouts per task", f"set `{_ROLLOUT}n`"),
    Rule(
        "replaced",
        ("actor_rollout_ref.ref.*",),
        "the reference runs on the learner's device and in the policy's precision, as the learner does",
    ),
)

_REWARD = (
    Rule(
        "replaced",
        ("reward.num_workers",),
        "rewards are computed by the runner that runs the task",
        "set the number of runners: `Trainer(n_runners=...)`",
    ),
    Rule(
        "no_effect",
        (
            "reward.reward_model.{enable_resource_pool,n_gpus_per_node,nnodes,rollout.*}",
            "reward_model.{enable_resource_pool,n_gpus_per_node,nnodes,rollout.*}",
            "reward_model.model.{external_lib,trust_remote_code}",
            "reward.reward_manager.module.name",
            "reward.sandbox_fusion.{max_concurrent,memory_limit_mb}",
        ),
        "the reward feature that reads it is off",
    ),
    Rule(
        "refused",
        ("reward.reward_model.*",),
        "reward models are not served here",
        "leave it out and call your reward model in the agent or in `reward.custom_reward_function.path`",
    ),
    Rule(
        "refused",
        ("reward.reward_manager.name",),
        "there is one reward manager: the agent's or the reward function's score, with the penalty of "
        "`reward.reward_kwargs.overlong_buffer_cfg` and all reward dimensions kept",
        "leave it out, or set it to naive, dapo or gdpo, which come to that",
        here=("naive", "dapo", "gdpo"),
    ),
    Rule(
        "refused",
        ("reward.reward_manager.{source,module.path}", "reward_model.reward_loop_*"),
        "reward managers of your own are not loaded",
        "leave it out; `reward.custom_reward_function.path` takes a function of your own",
    ),
    Rule(
        "refused",
        ("reward.sandbox_fusion.url",),
        "there is no client for a code sandbox",
        "leave it out and run the code in `reward.custom_reward_function.path`",
    ),
)

_DATA = (
    Rule(
        "replaced",
        ("data.{image_key,video_key,audio_key,image_patch_size}", "data.return_*"),
        "your agent gets the whole row as its task",
        "read the column in your agent",
    ),
    Rule(
        "replaced",
        ("data.{tool_config_path,function_tool_path}",),
        "the tools are your agent's",
        "call them in your agent",
    ),
    Rule(
        "replaced",
        ("data.{dataloader_num_workers,use_shm,filter_overlong_prompts_workers}",),
        "tasks are held in memory; no workers load them",
    ),
    Rule("no_effect", ("data.validation_shuffle",), "the order of validation tasks changes no result"),
    Rule("no_effect", ("data.val_batch_size",), "the whole validation set is run at once, as in verl"),
    Rule(
        "refused", ("data.custom_cls.path",), "dataset classes are not loaded from files", "give the dataset to `fit`"
    ),
    Rule("no_effect", ("data.custom_cls.name",), "`data.custom_cls.path` is not set"),
    Rule(
        "refused",
        ("data.sampler.class_path", "data.sampler.class_name"),
        "sampler classes are not loaded from files",
        "leave it out; `agentlightning.curriculum` chooses tasks by what they earned",
    ),
    Rule(
        "refused",
        ("data.trust_remote_code",),
        "tokenizers are loaded with the model",
        f"set `{_MODEL}trust_remote_code`",
    ),
    Rule(
        "refused",
        ("data.apply_chat_template_kwargs*", "data.mm_processor_kwargs*"),
        "arguments of the chat template or processor are not built yet",
        f"change the template: `{_MODEL}custom_chat_template`",
    ),
)

_MODEL_RULES = (
    Rule(
        "no_effect",
        ("critic.model.{tokenizer_path,custom_chat_template}",),
        "a value model reads the policy's token ids",
    ),
    Rule(
        "replaced",
        (f"{_MODELS}override_config.attn_implementation",),
        "attention is chosen by device",
        "nothing to do: the result is the same",
    ),
    Rule(
        "refused",
        (f"{_MODELS}{{hf_config_path,external_lib}}",),
        "a model is loaded with its own configuration and code",
        f"set `{_MODEL}override_config` or `{_MODEL}trust_remote_code`",
    ),
    Rule(
        "refused",
        (f"{_MODELS}lora.{{rank,adapter_path}}",),
        "these are Megatron's adapters",
        f"set `{_MODEL}lora_rank` or `{_MODEL}lora_adapter_path`",
    ),
    Rule(
        "refused",
        (f"{_MODELS}mtp.enable*",),
        "multi-token prediction is not built yet",
        _LATER,
    ),
    Rule("no_effect", (f"{_MODELS}lora.*", f"{_MODELS}mtp.*"), "the feature that reads it is off"),
    Rule(
        "replaced",
        (f"{_MODELS}{{use_remove_padding,tiled_mlp.*}}", f"{_ACTOR}{{use_remove_padding,pad_to_length}}"),
        "rows are always packed without padding; the gradient is the same",
    ),
    Rule(
        "replaced",
        (
            f"{_MODELS}{{use_liger,use_fused_kernels,fused_kernel_options.*,enable_activation_offload,use_shm}}",
            f"{_ACTOR}{{use_fused_kernels,entropy_from_logits*,entropy_checkpointing,use_prefix_grouper}}",
        ),
        "log-probs are computed in chunks from the hidden states; the result is the same",
    ),
)

_STEP_RULES = (
    Rule(
        "replaced",
        (f"{_STEPS}{{ppo_micro_batch_size,ppo_micro_batch_size_per_gpu}}", "critic.forward_m*"),
        "micro-batches are cut by token budget; the gradient is the same",
        "set `ppo_max_token_len_per_gpu` beside it to bound memory",
    ),
    Rule(
        "replaced",
        (f"{_STEPS}use_dynamic_bsz",),
        "micro-batches are cut by token budget",
        here=(True,),
    ),
    Rule("refused", (f"{_ACTOR}{{fsdp_config.,}}qat.enable",), "quantisation-aware training is not built yet", _LATER),
    Rule("refused", ("critic.fsdp.qat.enable",), "quantisation-aware training is not built yet", _LATER),
    Rule("no_effect", (f"{_ACTOR}{{fsdp_config.,}}qat.*", "critic.fsdp.qat.*"), "`qat.enable` is False"),
    Rule(
        "replaced",
        (f"{_ROLLOUT}dtype",),
        f"engine and learner share one set of weights, in the precision of `{_ACTOR}fsdp_config.model_dtype`",
        f"set `{_ACTOR}fsdp_config.model_dtype`",
        here=("float32", "fp32"),
    ),
    Rule(
        "replaced",
        (f"{_ACTOR}fsdp_config.dtype", "critic.fsdp.dtype"),
        "a model computes in the precision of its weights; there is no autocast",
        "set `model_dtype` beside it",
        here=("float32", "fp32"),
    ),
    Rule(
        "replaced",
        (
            f"{_ACTOR}fsdp_config.*",
            "critic.fsdp.*",
            f"{_STEPS}{{strategy,megatron.*,ulysses_sequence_parallel_size}}",
            "model_engine",
        ),
        _ONE_PROCESS,
        "sharding comes with training on several devices",
    ),
    Rule("replaced", (f"{_ACTOR}use_torch_compile",), "the model runs uncompiled", here=(False,)),
    Rule("replaced", (f"{_ACTOR}calculate_entropy",), "the entropy is always measured", here=(True,)),
    Rule(
        "replaced",
        (f"{_ACTOR}calculate_sum_pi_squared",),
        "sums of squared probabilities are computed where the advantage estimator reads them",
        here=(True,),
    ),
    Rule("no_effect", (f"{_ACTOR}freeze_vision_tower",), "text models have no vision tower"),
    Rule("refused", (f"{_STEPS}rollout_n",), "it follows the rollouts per task", f"set `{_ROLLOUT}n`"),
    Rule(
        "replaced",
        ("critic.{shuffle,data_loader_seed}",),
        "the critic takes the batch in the actor's order",
        f"set `{_ACTOR}shuffle`",
    ),
    Rule("refused", (f"{_STEPS}optim.zero_indexed_step",), "schedules count from step 0", _LATER),
    Rule(
        "refused",
        (f"{_STEPS}checkpoint.load_contents",),
        "a checkpoint is loaded whole",
        f"leave it out; to start from weights alone, set `{_MODEL}path` to the checkpoint",
    ),
    Rule(
        "replaced",
        (f"{_STEPS}checkpoint.*",),
        "a checkpoint always holds everything that resuming needs, and weights that `from_pretrained` loads",
    ),
    Rule(
        "replaced",
        ("*profiler.*",),
        "times by phase are in `metrics.jsonl`; there is no profiler",
        "run the command under a profiler, such as py-spy",
    ),
)

_ROLLOUT_RULES = (
    Rule(
        "refused",
        (f"{_ROLLOUT}{{prompt_length,response_length}}",),
        "it follows the lengths in `data`",
        "set `data.max_prompt_length` and `data.max_response_length`",
    ),
    Rule(
        "refused",
        (
            f"{_ROLLOUT}{{mode,ignore_eos,over_sample_rate,logprobs_mode,quantization,quantization_config_file}}",
            f"{_ROLLOUT}{{enable_rollout_routing_replay,mtp,qat,mtp.*,qat.*}}",
        ),
        "it would change what is sampled, and is not built yet",
        _LATER,
    ),
    Rule(
        "replaced",
        (f"{_ROLLOUT}multi_turn.num_repeat_rollouts",),
        "`rollout.n` says how often a task is run",
        f"set `{_ROLLOUT}n`",
    ),
    Rule(
        "replaced",
        (f"{_ROLLOUT}multi_turn.*", f"{_ROLLOUT}agent.*"),
        "your agent takes its own turns and calls its own tools, through the gateway",
        _AGENT,
    ),
    Rule("replaced", (f"{_ROLLOUT}calculate_log_probs",), "log-probs are always recorded"),
    Rule(
        "replaced",
        (f"{_ROLLOUT}log_prob_*",),
        "recomputed log-probs, too, go by token budget",
        f"set `{_ACTOR}ppo_max_token_len_per_gpu` to bound memory",
    ),
    Rule(
        "replaced",
        (
            f"{_ROLLOUT}{{data,expert,pipeline_model,tensor_model}}_parallel_size",
            f"{_ROLLOUT}{{nnodes,n_gpus_per_node,disaggregation.*}}",
        ),
        "the native engine runs in one process",
        _SERVER,
        here=(1,),
    ),
    Rule(
        "replaced",
        (f"{_ROLLOUT}{{gpu_memory_utilization,free_cache_engine,multi_stage_wake_up}}",),
        f"no memory is reserved; `{_ROLLOUT}max_num_seqs` bounds the cache of the native engine",
        _SERVER,
    ),
    Rule(
        "replaced",
        (f"{_ROLLOUT}full_determinism",),
        "the native engine is deterministic on CPU in fp32",
        "set `agentlightning.deterministic`",
    ),
    Rule(
        "replaced",
        (
            f"{_ROLLOUT}{{load_format,layered_summon,checkpoint_engine.*}}",
            "actor_rollout_ref.{hybrid_engine,nccl_timeout}",
        ),
        "weights are shared in memory, never sent",
    ),
    Rule(
        "replaced",
        (f"{_ROLLOUT}trace.*", f"{_ROLLOUT}prometheus.*"),
        "every call is a span in the run's store",
        "read the store in the run directory",
    ),
    Rule("replaced", (f"{_ROLLOUT}*",), "it is a setting of vLLM or SGLang; the native engine runs", _SERVER),
)

_TRAINER = (
    Rule(
        "replaced",
        ("trainer.{nnodes,n_gpus_per_node}",),
        "one process on the device that `trainer.device` says",
        "training on several devices comes later",
        here=(1,),
    ),
    Rule(
        "refused",
        ("trainer.v1.{trainer_mode,sampler.sync_refill_failed_groups,sampler.custom_sampler.path}",),
        "only the synchronous loop is built",
        _LATER,
    ),
    Rule("no_effect", ("trainer.v1.*",), "the mode that reads it is off"),
    Rule("no_effect", ("trainer.use_v1",), "there is one loop; its maths are those of both"),
    Rule(
        "replaced",
        ("trainer.max_critic_ckpt_to_keep",),
        "a checkpoint holds policy and critic together",
        "`trainer.max_actor_ckpt_to_keep` counts both",
    ),
    Rule("replaced", ("trainer.default_hdfs_dir",), "checkpoints are kept on disk", "copy the run directory"),
    Rule(
        "replaced",
        ("trainer.{balance_batch,esi_redundant_time,del_local_ckpt_after_load,checkpoint_callback_class}",),
        "there is one process, and its checkpoints stay where they are",
    ),
    Rule(
        "replaced",
        ("ray_kwargs.*", "transfer_queue.*", "trainer.ray_wait_register_center_timeout"),
        "Ray is not used: agents, engine and learner run on this machine",
        "placement by Ray comes with training on several machines",
    ),
    Rule("replaced", ("skip.*",), "rollouts are always run, never taken from a dump"),
    Rule("replaced", ("hydra.*",), "files are composed here, not by Hydra's launcher", "set `trainer.*` instead"),
)

_AGENT_LIGHTNING_03 = (
    Rule(
        "replaced",
        ("agentlightning.port",),
        "the gateway takes a free port",
        "give the trainer `llm_proxy={'port': N}`",
    ),
    Rule(
        "replaced",
        ("agentlightning.trace_aggregator.{level,debug,mismatch_log_dir}",),
        "calls that continue each other token for token are always one row; the loss is the same either way",
        "`agl inspect ROLLOUT` shows the rows, and where and why a call does not continue another",
        here=("trajectory",),
    ),
    Rule(
        "replaced",
        ("agentlightning.trace_aggregator.*",),
        "a row is as long as its conversation; nothing is cut",
        "`actor_rollout_ref.rollout.max_model_len` bounds it",
    ),
)

RULES: tuple[Rule, ...] = (
    *_MATHS,
    *_REFERENCE,
    *_REWARD,
    *_DATA,
    *_MODEL_RULES,
    *_STEP_RULES,
    *_ROLLOUT_RULES,
    *_TRAINER,
    *_AGENT_LIGHTNING_03,
)
"""All rules, in the order in which they are asked."""
