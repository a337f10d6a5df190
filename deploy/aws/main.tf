# ferry on AWS: an application load balancer in front of ferry on ECS Fargate, Amazon SQS as the queue, and PostgreSQL (RDS)
# for what instances share: leases, run history, and the cursors that SQS cannot keep. Not applied against AWS: see README.md.

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws    = { source = "hashicorp/aws", version = "~> 6.25" }
    random = { source = "hashicorp/random", version = "~> 3.7" }
  }
}

provider "aws" {
  region = var.region
}

locals {
  tags = merge({ application = var.name }, var.tags)
  # The container has no file of its own: the pipelines reach it as variables, which hold the same mappings as JSON.
  config   = yamldecode(file(var.config))
  mappings = { for key in ["defaults", "pipelines"] : "FERRY_${upper(key)}" => jsonencode(local.config[key]) if can(local.config[key]) }

  # One FIFO queue a topic, and one for its dead letters: ferry's names for them are TOPIC.fifo and TOPIC-dead.fifo, with
  # dashes for dots.
  topics = toset([for name, pipeline in local.config.pipelines : replace(try(pipeline.topic, name), ".", "-")])
  dead   = toset([for topic in local.topics : "${topic}-dead"])

  environment = merge({
    FERRY_ENV        = "prod"
    FERRY_LOG_FORMAT = "json"
    FERRY_QUEUE      = "sqs://${var.region}"
    # The load balancer hears of a stop from ECS; until all of it knows, requests still come.
    FERRY_SERVER_DRAIN_DELAY = "10s"
    # Above the load balancer's idle_timeout: who closes a connection first must not be ferry, or a request that is just
    # being sent on it is answered 502.
    FERRY_SERVER_IDLE_TIMEOUT = "6m"
  }, local.mappings, var.environment)

  secrets = merge(var.secrets, { FERRY_API_KEY = var.api_key, FERRY_STATE = local.database_url })
  # Their names are no secret, and Terraform has to know them.
  secret_names = concat(["FERRY_API_KEY", "FERRY_STATE"], nonsensitive(keys(var.secrets)))

  database_url = format("postgres://%s:%s@%s/%s?sslmode=require",
  aws_db_instance.state.username, random_password.database.result, aws_db_instance.state.endpoint, aws_db_instance.state.db_name)
}

# The queue.

resource "aws_sqs_queue" "topic" {
  for_each                   = local.topics
  name                       = "${each.key}.fifo"
  fifo_queue                 = true
  deduplication_scope        = "queue" # a record's id is the same in whatever group
  fifo_throughput_limit      = "perQueue"
  message_retention_seconds  = 1209600
  visibility_timeout_seconds = 30
  sqs_managed_sse_enabled    = true
  # What consumers give back again and again is put aside, so that what is behind it in its group goes on. Many times: that
  # ferry tail looks at a record counts as one.
  redrive_policy = jsonencode({ deadLetterTargetArn = aws_sqs_queue.rejected[each.key].arn, maxReceiveCount = 50 })
  tags           = local.tags
}

resource "aws_sqs_queue" "rejected" {
  for_each                  = local.topics
  name                      = "${each.key}-rejected.fifo"
  fifo_queue                = true
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  tags                      = local.tags
}

# Records that a pipeline could not carry. People look at them more often than any count, so nothing is put aside here.
resource "aws_sqs_queue" "dead" {
  for_each                   = local.dead
  name                       = "${each.key}.fifo"
  fifo_queue                 = true
  message_retention_seconds  = 1209600
  visibility_timeout_seconds = 30
  sqs_managed_sse_enabled    = true
  tags                       = local.tags
}

# The state.

resource "random_password" "database" {
  length  = 32
  special = false # it stands in a URL
}

resource "aws_db_subnet_group" "state" {
  name       = "${var.name}-state"
  subnet_ids = var.private_subnets
  tags       = local.tags
}

resource "aws_db_instance" "state" {
  identifier                  = "${var.name}-state"
  engine                      = "postgres"
  engine_version              = "17"
  instance_class              = var.database_class
  allocated_storage           = 20
  storage_type                = "gp3"
  storage_encrypted           = true
  multi_az                    = var.database_multi_az
  db_name                     = "ferry"
  username                    = "ferry"
  password                    = random_password.database.result
  db_subnet_group_name        = aws_db_subnet_group.state.name
  vpc_security_group_ids      = [aws_security_group.state.id]
  backup_retention_period     = 7
  deletion_protection         = true
  allow_major_version_upgrade = false
  skip_final_snapshot         = false
  final_snapshot_identifier   = "${var.name}-state-final"
  tags                        = local.tags
}

# Secrets, which ECS hands to the containers as environment variables.

resource "aws_secretsmanager_secret" "ferry" {
  name = "${var.name}/environment"
  tags = local.tags
}

resource "aws_secretsmanager_secret_version" "ferry" {
  secret_id     = aws_secretsmanager_secret.ferry.id
  secret_string = jsonencode(local.secrets)
}

# Who may talk to whom.

resource "aws_security_group" "balancer" {
  name   = "${var.name}-balancer"
  vpc_id = var.vpc
  tags   = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "balancer" {
  for_each          = toset(var.allowed_cidrs)
  security_group_id = aws_security_group.balancer.id
  cidr_ipv4         = each.value
  from_port         = 443
  to_port           = 443
  ip_protocol       = "tcp"
}

resource "aws_vpc_security_group_egress_rule" "balancer" {
  security_group_id            = aws_security_group.balancer.id
  referenced_security_group_id = aws_security_group.ferry.id
  from_port                    = 8080
  to_port                      = 8080
  ip_protocol                  = "tcp"
}

resource "aws_security_group" "ferry" {
  name   = "${var.name}-instances"
  vpc_id = var.vpc
  tags   = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "ferry" {
  security_group_id            = aws_security_group.ferry.id
  referenced_security_group_id = aws_security_group.balancer.id
  from_port                    = 8080
  to_port                      = 8080
  ip_protocol                  = "tcp"
}

# Third-party APIs are anywhere.
resource "aws_vpc_security_group_egress_rule" "ferry" {
  security_group_id = aws_security_group.ferry.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

resource "aws_security_group" "state" {
  name   = "${var.name}-state"
  vpc_id = var.vpc
  tags   = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "state" {
  security_group_id            = aws_security_group.state.id
  referenced_security_group_id = aws_security_group.ferry.id
  from_port                    = 5432
  to_port                      = 5432
  ip_protocol                  = "tcp"
}

# What ferry may do: its own queues, and nothing else.

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "queues" {
  statement {
    actions = [
      "sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility",
      "sqs:GetQueueAttributes", "sqs:GetQueueUrl",
    ]
    resources = concat([for q in aws_sqs_queue.topic : q.arn], [for q in aws_sqs_queue.dead : q.arn])
  }
}

data "aws_iam_policy_document" "start" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.ferry.arn]
  }
  statement {
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.ferry.arn}:*"]
  }
  statement {
    actions   = ["ecr:GetAuthorizationToken", "ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage"]
    resources = ["*"]
  }
}

resource "aws_iam_role" "ferry" {
  name               = "${var.name}-task"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = local.tags
}

resource "aws_iam_role_policy" "ferry" {
  role   = aws_iam_role.ferry.id
  policy = data.aws_iam_policy_document.queues.json
}

resource "aws_iam_role" "start" {
  name               = "${var.name}-start"
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = local.tags
}

resource "aws_iam_role_policy" "start" {
  role   = aws_iam_role.start.id
  policy = data.aws_iam_policy_document.start.json
}

# The instances.

resource "aws_cloudwatch_log_group" "ferry" {
  name              = "/ferry/${var.name}"
  retention_in_days = 30
  tags              = local.tags
}

resource "aws_ecs_cluster" "ferry" {
  name = var.name
  tags = local.tags
}

resource "aws_ecs_task_definition" "ferry" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  task_role_arn            = aws_iam_role.ferry.arn
  execution_role_arn       = aws_iam_role.start.arn
  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "ARM64"
  }
  volume {
    name = "data"
  }
  volume {
    name = "tmp"
  }
  container_definitions = jsonencode([{
    name                   = "ferry"
    image                  = var.image
    essential              = true
    readonlyRootFilesystem = true
    user                   = "65532:65532"
    stopTimeout            = 60 # drain_delay, grace, and some seconds to close
    portMappings           = [{ containerPort = 8080 }]
    mountPoints            = [{ sourceVolume = "data", containerPath = "/data" }, { sourceVolume = "tmp", containerPath = "/tmp" }]
    environment            = [for name, value in local.environment : { name = name, value = value }]
    # With the version, a changed secret is a new task definition, and so new tasks.
    secrets = [for name in local.secret_names : {
      name      = name
      valueFrom = "${aws_secretsmanager_secret.ferry.arn}:${name}::${aws_secretsmanager_secret_version.ferry.version_id}"
    }]
    healthCheck = {
      command     = ["CMD", "/usr/local/bin/ferry", "healthcheck", "--live"]
      interval    = 15
      startPeriod = 30
    }
    logConfiguration = {
      logDriver = "awslogs"
      options   = { "awslogs-group" = aws_cloudwatch_log_group.ferry.name, "awslogs-region" = var.region, "awslogs-stream-prefix" = "ferry" }
    }
  }])
  tags = local.tags
  lifecycle {
    precondition {
      condition     = !strcontains(file(var.config), "$${")
      error_message = "In variables $${…} means nothing: take it out of the file and give the value by secrets or environment, such as FERRY_PIPELINES_ORDERS_SOURCE_AUTH_BEARER."
    }
  }
}

resource "aws_ecs_service" "ferry" {
  name                               = var.name
  cluster                            = aws_ecs_cluster.ferry.id
  task_definition                    = aws_ecs_task_definition.ferry.arn
  launch_type                        = "FARGATE"
  desired_count                      = var.least
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200
  health_check_grace_period_seconds  = 60
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }
  network_configuration {
    subnets         = var.private_subnets
    security_groups = [aws_security_group.ferry.id]
  }
  load_balancer {
    target_group_arn = aws_lb_target_group.ferry.arn
    container_name   = "ferry"
    container_port   = 8080
  }
  # Rights that a task needs to start, or to be ready: nothing names them.
  depends_on = [aws_lb_listener.https, aws_iam_role_policy.start, aws_iam_role_policy.ferry, aws_sqs_queue.dead]
  lifecycle {
    ignore_changes = [desired_count] # the scaling's
  }
  tags = local.tags
}

resource "aws_appautoscaling_target" "ferry" {
  service_namespace  = "ecs"
  resource_id        = "service/${aws_ecs_cluster.ferry.name}/${aws_ecs_service.ferry.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.least
  max_capacity       = var.most
}

resource "aws_appautoscaling_policy" "cpu" {
  name               = "${var.name}-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.ferry.service_namespace
  resource_id        = aws_appautoscaling_target.ferry.resource_id
  scalable_dimension = aws_appautoscaling_target.ferry.scalable_dimension
  target_tracking_scaling_policy_configuration {
    target_value = 60
    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

# The load balancer.

resource "aws_lb" "ferry" {
  name               = var.name
  load_balancer_type = "application"
  internal           = var.internal
  subnets            = var.public_subnets
  security_groups    = [aws_security_group.balancer.id]
  idle_timeout       = 330 # above ferry's longest ?wait, five minutes
  tags               = local.tags
}

resource "aws_lb_target_group" "ferry" {
  name                          = var.name
  port                          = 8080
  protocol                      = "HTTP"
  target_type                   = "ip"
  vpc_id                        = var.vpc
  load_balancing_algorithm_type = "least_outstanding_requests"
  deregistration_delay          = 30
  health_check {
    path     = "/readyz"
    interval = 10
    timeout  = 5
    # ECS replaces a task that is red for this long. It is red while SQS does not answer, which no new task mends, so a
    # minute; tasks that stop are taken out by ECS at once.
    healthy_threshold   = 2
    unhealthy_threshold = 6
  }
  tags = local.tags
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.ferry.arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate
  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.ferry.arn
  }
}

# Prometheus asks the instances by themselves.
resource "aws_lb_listener_rule" "metrics" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 1
  condition {
    path_pattern {
      values = ["/metrics"]
    }
  }
  action {
    type = "fixed-response"
    fixed_response {
      content_type = "text/plain"
      status_code  = "404"
    }
  }
}
