"""The rules: verl's keys that the loop does not read, and what to say when one of them is set.

Read by `rules`. The first rule that covers a key counts, so exceptions stand before the rest of their section. A
feature that gets built moves its keys from here into the schema.
"""

from __future__ import annotations

from .rules import Rule

_ACTOR = "actor_rollout_ref.actor."
_MODEL = "actor_rollout_ref.model."
_ROLLOUT = "actor_rollout_ref.rollout."
_LATER = "leave it at verl's default"
_SERVER = "other engines, as servers, are not built yet"
_ONE_PROCESS = "nothing to shard: the model is trained in one process"
_AGENT = "your agent does this itself"

_MATHS = (
    Rule(
        "refused",
        ("algorithm.filter_groups.enable",),
        "dynamic sampling (DAPO) is not built yet",
        "leave it at False; groups without reward variance then count with advantage 0",
    ),
    Rule("refused", ("algorithm.use_pf_ppo",), "preference-feedback PPO is not built yet", _LATER),
    Rule(
        "refused",
        ("algorithm.rollout_correction.{rollout_is,rollout_rs,bypass_mode}",),
        "rollout correction is not built yet",
        "leave it out; the native engine shares the learner's weights, so there is no mismatch to correct",
    ),
    Rule(
        "refused",
        ("algorithm.{gdpo_reward_keys,gdpo_reward_weights,dpo_beta,dpo_loss_type,dpo_label_smoothing,sppo_eta}",),
        "the algorithm that reads it is not built yet",
        "leave it out; `algorithm.adv_estimator` says what is possible now",
    ),
    Rule(
        "refused", (f"{_ACTOR}{{dpo_beta,sppo_eta}}", "trainer.ref_update_freq"), "self-play is not built yet", _LATER
    ),
    Rule(
        "no_effect",
        ("algorithm.filter_groups.*", "algorithm.pf_ppo.*", "algorithm.rollout_correction.*"),
        "the feature that reads it is off",
    ),
    Rule("no_effect", ("algorithm.{kl_penalty,kl_ctrl.*}",), "`algorithm.use_kl_in_reward` is False"),
    Rule("no_effect", (f"{_ACTOR}kl_loss_{{coef,type}}",), "`actor.use_kl_loss` is False"),
    Rule(
        "no_effect",
        (f"{_ACTOR}{{tau_pos,tau_neg}}", f"{_ACTOR}policy_loss.*", f"{_ACTOR}calculate_sum_pi_squared"),
        "the policy loss and the advantage estimator in use do not read it",
    ),
    Rule("refused", ("critic.enable",), "value models are not built yet", "leave it out; `grpo` needs no critic"),
    Rule("no_effect", ("critic.*", "trainer.max_critic_ckpt_to_keep"), "there is no critic"),
    Rule("no_effect", ("actor_rollout_ref.ref.*",), "there is no reference model: KL terms are off"),
    Rule("refused", ("distillation.enabled",), "on-policy distillation is not built yet", _LATER),
    Rule("no_effect", ("distillation.*",), "`distillation.enabled` is False"),
)

_REWARD = (
    Rule(
        "replaced",
        ("reward.num_workers", "reward_model.num_workers"),
        "rewards come from your agent, in the runner that runs it",
        "set the number of runners: `Trainer(n_runners=...)`",
    ),
    Rule(
        "no_effect",
        (
            "reward.reward_model.{enable_resource_pool,n_gpus_per_node,nnodes,rollout.*}",
            "reward_model.{enable_resource_pool,n_gpus_per_node,nnodes,rollout.*}",
            "reward.reward_manager.module.name",
            "reward.custom_reward_function.name",
            "{reward.,}sandbox_fusion.{max_concurrent,memory_limit_mb}",
        ),
        "the reward feature that reads it is off",
    ),
    Rule(
        "refused",
        ("reward.*", "reward_model.*", "custom_reward_function.*", "sandbox_fusion.*"),
        "reward functions, managers and models are not built yet",
        "leave it out and return the reward from your agent, or call `emit_reward` in it",
    ),
)

_DATA = (
    Rule(
        "replaced",
        ("data.{prompt_key,reward_fn_key,image_key,video_key,audio_key,image_patch_size}", "data.return_*"),
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
    Rule("no_effect", ("data.val_batch_size",), "the whole validation set is run at once, as in verl"),
    Rule("no_effect", ("data.validation_shuffle",), "the order of validation tasks changes no result"),
    Rule(
        "refused",
        ("data.filter_overlong_prompts",),
        "prompts are made by the agent, so their length is not known from the data",
        "leave out long tasks in the dataset",
    ),
    Rule(
        "refused", ("data.custom_cls.path",), "dataset classes are not loaded from files", "give the dataset to `fit`"
    ),
    Rule("no_effect", ("data.custom_cls.name",), "`data.custom_cls.path` is not set"),
    Rule(
        "refused",
        ("data.apply_chat_template_kwargs*", "data.mm_processor_kwargs*"),
        "arguments of the chat template or processor are not built yet",
        "change the template in the model's tokenizer",
    ),
)

_MODEL_RULES = (
    Rule(
        "refused",
        (f"{_MODEL}tokenizer_path", "data.tokenizer"),
        "the tokenizer is the one in the model's directory",
        f"put its files there, or save both together and set `{_MODEL}path`",
    ),
    Rule(
        "refused",
        (f"{_MODEL}trust_remote_code", "data.trust_remote_code"),
        "code that comes with a model is not run",
        "use an architecture that transformers itself has",
    ),
    Rule(
        "replaced",
        (f"{_MODEL}override_config.attn_implementation",),
        "attention is chosen by device",
        "nothing to do: the result is the same",
    ),
    Rule(
        "refused",
        (f"{_MODEL}override_config*", f"{_MODEL}{{hf_config_path,custom_chat_template,external_lib}}"),
        "changing the model on loading is not built yet",
        f"save the changed model and set `{_MODEL}path` to it",
    ),
    Rule(
        "refused",
        (f"{_MODEL}lora_adapter_path", f"{_MODEL}lora.{{rank,adapter_path}}", f"{_MODEL}mtp.enable*"),
        "adapters and multi-token prediction are not built yet",
        "merge the adapter into the model first",
    ),
    Rule(
        "no_effect",
        (f"{_MODEL}{{lora_alpha,target_modules,exclude_modules,lora.*,mtp.*}}",),
        "the feature that reads it is off",
    ),
    Rule(
        "replaced",
        (f"{_MODEL}{{use_remove_padding,tiled_mlp.*}}", f"{_ACTOR}{{use_remove_padding,pad_to_length}}"),
        "rows are always packed without padding; the gradient is the same",
    ),
    Rule(
        "replaced",
        (
            f"{_MODEL}{{use_liger,use_fused_kernels,fused_kernel_options.*,enable_activation_offload,use_shm}}",
            f"{_ACTOR}{{use_fused_kernels,entropy_from_logits*,entropy_checkpointing,use_prefix_grouper}}",
        ),
        "log-probs are computed in chunks from the hidden states; the result is the same",
    ),
)

_ACTOR_RULES = (
    Rule(
        "replaced",
        (f"{_ACTOR}{{ppo_micro_batch_size,ppo_micro_batch_size_per_gpu}}",),
        "micro-batches are cut by token budget; the gradient is the same",
        f"set `{_ACTOR}ppo_max_token_len_per_gpu` to bound memory",
    ),
    Rule(
        "replaced",
        (f"{_ACTOR}use_dynamic_bsz",),
        "micro-batches are cut by token budget",
        here=(True,),
    ),
    Rule("refused", (f"{_ACTOR}{{fsdp_config.,}}qat.enable",), "quantisation-aware training is not built yet", _LATER),
    Rule("no_effect", (f"{_ACTOR}{{fsdp_config.,}}qat.*",), "`qat.enable` is False"),
    Rule(
        "replaced",
        (f"{_ACTOR}fsdp_config.{{dtype,model_dtype}}", f"{_ROLLOUT}dtype"),
        "learner and engine share one set of weights, in fp32 on CPU",
        here=("float32", "fp32"),
    ),
    Rule(
        "replaced",
        (f"{_ACTOR}fsdp_config.*", f"{_ACTOR}{{strategy,megatron.*,ulysses_sequence_parallel_size}}", "model_engine"),
        _ONE_PROCESS,
        "sharding comes with training on several devices",
    ),
    Rule("replaced", (f"{_ACTOR}use_torch_compile",), "the model runs uncompiled", here=(False,)),
    Rule("replaced", (f"{_ACTOR}calculate_entropy",), "the entropy is always computed", here=(True,)),
    Rule("no_effect", (f"{_ACTOR}freeze_vision_tower",), "text models have no vision tower"),
    Rule("refused", (f"{_ACTOR}rollout_n",), "it follows the rollouts per task", f"set `{_ROLLOUT}n`"),
    Rule(
        "refused",
        (f"{_ACTOR}optim.{{optimizer_impl,override_optimizer_config*,zero_indexed_step}}",),
        "other optimizers and their arguments are not built yet",
        "leave it at verl's default (AdamW of torch.optim)",
    ),
    Rule(
        "refused",
        (f"{_ACTOR}checkpoint.load_contents",),
        "a checkpoint is loaded whole",
        "leave it out; to start from weights alone, set `actor_rollout_ref.model.path` to the checkpoint",
    ),
    Rule(
        "replaced",
        (f"{_ACTOR}checkpoint.*",),
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
        (f"{_ROLLOUT}multi_turn.{{num_repeat_rollouts}}",),
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
        (f"{_ROLLOUT}{{full_determinism}}",),
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
        ("trainer.{rollout_data_dir,validation_data_dir,log_val_generations}",),
        "rollouts are kept in the run's store",
        "read the store in the run directory",
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
    *_REWARD,
    *_DATA,
    *_MODEL_RULES,
    *_ACTOR_RULES,
    *_ROLLOUT_RULES,
    *_TRAINER,
    *_AGENT_LIGHTNING_03,
)
"""All rules, in the order in which they are asked."""
